// The frames, as they come; again after whatever breaks them off.

import type { Frame } from "./types";

const FIRST_RETRY = 1_000;
const LONGEST_RETRY = 15_000;

export class Stream {
  private source: EventSource | null = null;
  private retry: number | undefined;
  private wait = FIRST_RETRY;

  constructor(
    private readonly frame: (frame: Frame) => void,
    private readonly broken: () => void,
  ) {}

  open(): void {
    if (this.source) return;
    clearTimeout(this.retry);
    const source = new EventSource("events");
    this.source = source;
    source.addEventListener("message", (event: MessageEvent<string>) => {
      this.wait = FIRST_RETRY;
      this.frame(JSON.parse(event.data) as Frame);
    });
    source.addEventListener("error", () => {
      this.broken();
      // The browser tries again by itself only where the connection was lost; an answer such as 503 ends it.
      this.close();
      this.retry = setTimeout(() => this.open(), this.wait);
      this.wait = Math.min(2 * this.wait, LONGEST_RETRY);
    });
  }

  close(): void {
    clearTimeout(this.retry);
    this.source?.close();
    this.source = null;
  }
}
