/** Loaded before a program, makes the system one that knows no SO_REUSEPORT: what listens with it fails as it does there. */
import { Server } from 'node:net';

const { listen } = Server.prototype;

Server.prototype.listen = function (this: Server, ...options: unknown[]): Server {
  const [first] = options;
  if (typeof first !== 'object' || first === null || !('reusePort' in first) || first.reusePort !== true) return Reflect.apply(listen, this, options);
  const error = Object.assign(new Error('listen ENOTSUP: operation not supported on socket'), { code: 'ENOTSUP', syscall: 'listen' });
  process.nextTick(() => this.emit('error', error));
  return this;
};
