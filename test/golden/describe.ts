/** How messages, entries and configurations read in a trace. `2/7` is the entry of term 2 at index 7. */
import { decodeConfChange } from '../../raft/confchange.ts';
import { ConfChangeType, EntryType, MessageType } from '../../raft/types.ts';
import type { ConfChange, ConfState, Entry, Message, Ready } from '../../raft/types.ts';

const text = new TextDecoder();

export function describeEntry(entry: Entry): string {
  return `${entry.term}/${entry.index} ${describeData(entry)}`;
}

export function describeData(entry: Entry): string {
  if (entry.type === EntryType.confChange) {
    const change = decodeConfChange(entry.data);
    return change === null ? 'conf ?' : `conf ${describeChange(change)}`;
  }
  if (entry.data.length === 0) return '-';
  return entry.data.length > 20 ? `<${entry.data.length} bytes>` : text.decode(entry.data);
}

function describeChange(change: ConfChange): string {
  if (change.changes.length === 0) return 'leave-joint';
  const names: Record<ConfChangeType, string> = {
    [ConfChangeType.addVoter]: 'voter',
    [ConfChangeType.addLearner]: 'learner',
    [ConfChangeType.remove]: 'remove',
  };
  const steps = change.changes.map(({ type, replica }) => `${names[type]}:${replica}`).join(' ');
  return steps + (change.joint ? ' joint' : '') + (change.autoLeave ? ' auto-leave' : '');
}

export function describeConf(conf: ConfState): string {
  const parts = [`voters ${conf.voters.join(',')}`];
  if (conf.votersOutgoing.length > 0) parts.push(`outgoing ${conf.votersOutgoing.join(',')}`);
  if (conf.learners.length > 0) parts.push(`learners ${conf.learners.join(',')}`);
  if (conf.learnersNext.length > 0) parts.push(`learners-next ${conf.learnersNext.join(',')}`);
  if (conf.autoLeave) parts.push('auto-leave');
  return parts.join(' ');
}

export function describeMessage(message: Message): string {
  return `${message.from}>${message.to} t${message.term} ${describeBody(message)}`;
}

function describeBody(message: Message): string {
  const { index, logTerm, commit, context, reject } = message;
  switch (message.type) {
    case MessageType.append:
      return `append after ${logTerm}/${index} [${message.entries.map(describeEntry).join(', ')}] commit ${commit}`;
    case MessageType.appendResponse:
      return reject ? `append refused at ${index}, try ${logTerm}/${message.rejectHint}` : `append ok ${index}`;
    case MessageType.vote:
      return `vote? last ${logTerm}/${index}${context === 0 ? '' : ' (transfer)'}`;
    case MessageType.voteResponse:
      return reject ? 'vote no' : 'vote yes';
    case MessageType.preVote:
      return `pre-vote? last ${logTerm}/${index}`;
    case MessageType.preVoteResponse:
      return reject ? 'pre-vote no' : 'pre-vote yes';
    case MessageType.heartbeat:
      return `heartbeat commit ${commit}${context === 0 ? '' : ` read-round ${context}`}`;
    case MessageType.heartbeatResponse:
      return `heartbeat ok${context === 0 ? '' : ` read-round ${context}`}`;
    case MessageType.commit:
      return `commit ${commit}`;
    case MessageType.snapshot:
      return `snapshot needed, at least ${logTerm}/${index}`;
    case MessageType.timeoutNow:
      return 'timeout-now';
    case MessageType.readIndex:
      return `read? ${context}`;
    case MessageType.readIndexResponse:
      return reject ? `read ${context} refused` : `read ${context} at ${index}`;
  }
}

/** What a Ready asks to be written. */
export function describeWrite(ready: Ready): string {
  const parts: string[] = [];
  if (ready.hardState !== null) {
    parts.push(`term ${ready.hardState.term} vote ${ready.hardState.vote} commit ${ready.hardState.commit}`);
  }
  if (ready.snapshot !== null) parts.push(`snapshot ${ready.snapshot.term}/${ready.snapshot.index}`);
  if (ready.entries.length > 0) parts.push(`[${ready.entries.map(describeEntry).join(', ')}]`);
  return parts.join(' ') + (ready.sync ? '' : ' (lazily)');
}
