// What the service sends: see frame.rs. Times are seconds since 1970.

export interface Frame {
  version: string;
  at: number;
  figures: Figures | null;
  fault: string | null;
  process: Process;
}

export interface Figures {
  group: string;
  now: number;
  start: number;
  end: number;
  emotions: Emotion[];
  subjects: Subject[];
  posts: Post[] | null;
  tally: Tally;
  rate: number | null;
}

export interface Emotion {
  name: string;
  posts: number;
  score: number;
  minutes: number[];
}

export interface Subject {
  name: string;
  posts: number;
  emotions: [string, number][];
}

export interface Post {
  at: number;
  source: string;
  lang: string;
  emotion: string;
  score: number;
  text: string;
  repost: boolean;
  subjects: string[];
}

export interface Tally {
  records: number;
  inserted: number;
  duplicates: number;
  deletions: number;
  filtered: number;
  late: number;
  rejected: number;
  removed: number;
}

export interface Process {
  faults: string[];
  model: string | null;
  partitions: number;
  lag: number;
  delay: { p50: number; p95: number } | null;
  rejects: [string, number][];
}
