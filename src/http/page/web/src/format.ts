// Numbers and times as they are read.

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const clockMinute = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
const clockSecond = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
const day = new Intl.DateTimeFormat(undefined, { dateStyle: "medium" });

export const count = (n: number): string => whole.format(n);

export const rate = (n: number): string => (n > 0 && n < 10 ? n.toFixed(1) : whole.format(n));

export const percent = (part: number, all: number): string => (all > 0 ? `${((100 * part) / all).toFixed(1)} %` : "–");

export const score = (n: number): string => n.toFixed(2);

export const minute = (seconds: number): string => clockMinute.format(seconds * 1000);

export const second = (seconds: number): string => clockSecond.format(seconds * 1000);

export const date = (seconds: number): string => day.format(seconds * 1000);

export const iso = (seconds: number): string => new Date(seconds * 1000).toISOString();

/** A span of time, in the unit that says it shortest. */
export function span(seconds: number): string {
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 100) return `${seconds.toFixed(1)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return `${(seconds / 3600).toFixed(1)} h`;
}
