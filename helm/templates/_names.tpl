{{- define "fastpaca.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 50 | trimSuffix "-" }}{{ else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "fastpaca.peers" -}}
{{ include "fastpaca.name" . }}-peers
{{- end }}

{{- /* DNS name of the headless Service: all members, ready or not. */ -}}
{{- define "fastpaca.peersHost" -}}
{{ include "fastpaca.peers" . }}.{{ .Release.Namespace }}.svc.{{ .Values.clusterDomain }}
{{- end }}

{{- define "fastpaca.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "fastpaca.labels" -}}
{{ include "fastpaca.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "fastpaca.secret" -}}
{{ .Values.auth.existingSecret | default (include "fastpaca.name" .) }}
{{- end }}

{{- define "fastpaca.databaseSecret" -}}
{{ .Values.archiver.existingSecret | default (printf "%s-database" (include "fastpaca.name" .)) }}
{{- end }}

{{- define "fastpaca.databaseKey" -}}
{{ if .Values.archiver.existingSecret }}{{ .Values.archiver.existingSecretKey }}{{ else }}DATABASE_URL{{ end }}
{{- end }}

{{- define "fastpaca.scheme" -}}
{{ if .Values.tls.existingSecret }}HTTPS{{ else }}HTTP{{ end }}
{{- end }}

{{- /* What values.schema.json cannot say: values that contradict each other. */ -}}
{{- define "fastpaca.check" -}}
{{- if lt (int .Values.replicas) (int .Values.foundingMembers) }}{{ fail "replicas is smaller than foundingMembers: the cluster would wait for its members for ever" }}{{ end }}
{{- if and .Values.archiver.enabled (not .Values.archiver.databaseUrl) (not .Values.archiver.existingSecret) }}{{ fail "archiver.enabled needs archiver.databaseUrl or archiver.existingSecret" }}{{ end }}
{{- if and .Values.archiver.databaseUrl .Values.archiver.existingSecret }}{{ fail "give archiver.databaseUrl or archiver.existingSecret, not both" }}{{ end }}
{{- if and .Values.auth.existingSecret (or .Values.auth.apiKey .Values.auth.clusterSecret) }}{{ fail "auth.existingSecret holds both keys: leave auth.apiKey and auth.clusterSecret empty" }}{{ end }}
{{- end }}
