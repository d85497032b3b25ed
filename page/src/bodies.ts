export interface Bodies {
  ActorStatus: ActorStatus;
  AdapterRequest: AdapterRequest;
  CommandResult: CommandResult;
  DecisionList: DecisionList;
  DecisionRecord: DecisionRecord;
  DomainEvent: DomainEvent;
  DomainList: DomainList;
  DomainStatus: DomainStatus;
  ErrorAnswer: ErrorAnswer;
  ErrorDetail: ErrorDetail;
  ExamExample: ExamExample;
  ExamList: ExamList;
  IngestStatus: IngestStatus;
  Letter: Letter;
  LetterChoice: LetterChoice;
  LetterList: LetterList;
  MixedPart: MixedPart;
  PublicationList: PublicationList;
  PublicationRecord: PublicationRecord;
  PublishedChange: PublishedChange;
  RecordsResult: RecordsResult;
  ReplayRequest: ReplayRequest;
  ReplayResult: ReplayResult;
  ReplicaHealth: ReplicaHealth;
  ReplicaStatus: ReplicaStatus;
  RouteDecision: RouteDecision;
  RouteRequest: RouteRequest;
  RouteResult: RouteResult;
  SegmentStatus: SegmentStatus;
  Stretch: Stretch;
  SystemStatus: SystemStatus;
  TrainingProgress: TrainingProgress;
  TroubleEvent: TroubleEvent;
  TurnDecision: TurnDecision;
  VersionRequest: VersionRequest;
  VersionStatus: VersionStatus;
  Waiting: Waiting;
}
export interface ActorStatus {
  name: string;
  node: string | null;
  progress_seconds: number | null;
  restarts: number;
  state: "up" | "starting" | "lost";
  trouble: string | null;
  up_seconds: number | null;
}
export interface AdapterRequest {
  note: string;
  offer: string;
}
export interface CommandResult {
  domain: string;
  manifest: number;
  reason: string;
}
export interface DecisionList {
  decisions: DecisionRecord[];
  keep: number;
}
export interface DecisionRecord {
  at: number;
  decision: RouteDecision;
  id: string;
  manifest: number;
  model: string;
  prompt: string | null;
}
export interface RouteDecision {
  abstained: string | null;
  adapter: string;
  confidence: number | null;
  domain: string;
  index: number;
  lead: number | null;
  nearest: boolean;
  parts: MixedPart[];
  score: number | null;
  scores: {
    [k: string]: number;
  };
  threshold: number | null;
  turns: TurnDecision[];
}
export interface MixedPart {
  adapter: string;
  domain: string;
  weight: number;
}
export interface TurnDecision {
  abstained: string | null;
  confidence: number | null;
  domain: string;
  score: number | null;
}
export interface DomainEvent {
  domains: DomainStatus[];
  gone: string[];
}
export interface DomainStatus {
  detail: string;
  domain: string;
  examples: number;
  lost: Stretch[];
  pinned: boolean;
  prequential: number | null;
  prequential_rows: number;
  progress: TrainingProgress | null;
  routed_to: {
    [k: string]: number;
  };
  router_rows: number;
  segments: SegmentStatus[];
  state: "open" | "closed" | "learning" | "publishing" | "published" | "rejected" | "failed";
  timings: {
    [k: string]: number;
  };
  version: string | null;
  versions: VersionStatus[];
  waiting: Waiting;
  withdrawn: string | null;
}
export interface Stretch {
  first: number;
  last: number;
  partition: string;
  rows: number;
}
export interface TrainingProgress {
  curve: [unknown, unknown][];
  loss: number | null;
  resumed_from: number;
  step: number;
  steps: number;
}
export interface SegmentStatus {
  examples: number;
  figures: {
    [k: string]: number | null;
  };
  router_rows: number;
  segment: number;
  version: string;
}
export interface VersionStatus {
  beside: string[];
  examples: number;
  figures: {
    [k: string]: number | null;
  };
  name: string;
  reason: string;
  segment: number;
  status: "accepted" | "rejected";
}
export interface Waiting {
  held_out: number;
  sealed: number[];
  train: number;
}
export interface DomainList {
  domains: DomainStatus[];
}
export interface ErrorAnswer {
  error: ErrorDetail;
}
export interface ErrorDetail {
  code: number;
  message: string;
  param: string | null;
  type: string;
}
export interface ExamExample {
  completion: string;
  prompt: string;
}
export interface ExamList {
  domain: string;
  examples: ExamExample[];
  rows: number;
  version: string;
}
export interface IngestStatus {
  dead_letters: number;
  duplicates: number;
  full: boolean;
  lag: {
    [k: string]: number;
  };
  name: string;
  partitions: string[];
  polled: number;
  spooled: number;
  spooled_bytes: number;
  trouble: {
    [k: string]: string;
  };
}
export interface Letter {
  at: number;
  bytes: number;
  detail: string;
  offset: number;
  partition: number;
  reason: string;
  text: string | null;
  topic: string;
  whole: boolean;
}
export interface LetterChoice {
  offset: number;
  partition: number;
  text: string | null;
  topic: string;
}
export interface LetterList {
  letters: Letter[];
  total: number;
}
export interface PublicationList {
  damaged: number[];
  publications: PublicationRecord[];
}
export interface PublicationRecord {
  at: number;
  changes: PublishedChange[];
  domains: number;
  exact: {
    [k: string]: number;
  };
  manifest: number;
  reason: string;
}
export interface PublishedChange {
  after: string | null;
  before: string | null;
  domain: string;
  kind: "added" | "updated" | "rolled back" | "pinned" | "unpinned" | "removed" | "base";
  publication_seconds: number | null;
  training_seconds: number | null;
}
export interface RecordsResult {
  ids: string[];
}
export interface ReplayRequest {
  letters: LetterChoice[] | null;
}
export interface ReplayResult {
  kept: string[];
  replayed: number;
}
export interface ReplicaHealth {
  engine_failure: string | null;
  fenced: string | null;
  leases: number;
  loaded: string[];
  manifest: number;
  prepared: number[];
  ready: boolean;
  trouble: string | null;
  unload_failure: string | null;
  versions: string[];
  waiting: number;
}
export interface ReplicaStatus {
  fenced: string | null;
  lag_seconds: number;
  manifest: number;
  since: number | null;
}
export interface RouteRequest {
  input: string | string[] | null;
  messages: unknown[] | null;
  top_k: number | null;
}
export interface RouteResult {
  base: string;
  decisions: RouteDecision[];
  manifest: number;
}
export interface SystemStatus {
  actors: ActorStatus[];
  base: BaseRevision;
  domains: DomainStatus[];
  ingest: IngestStatus[];
  manifest: number;
  replica: ReplicaHealth | null;
  replicas: {
    [k: string]: ReplicaStatus;
  };
  trouble: string | null;
  unread: Stretch[];
}
export interface BaseRevision {
  delta: string | "";
  digest: string;
  model: string;
  revision: string;
}
export interface TroubleEvent {
  message: string;
}
export interface VersionRequest {
  version: string | null;
}
