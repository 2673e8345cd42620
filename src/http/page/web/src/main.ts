// What is shown when: frames as they come, none while paused or out of sight.

import { byId, say } from "./dom";
import { Stream } from "./stream";
import type { Frame } from "./types";
import { View } from "./view";

/** Where less motion is asked for, the page changes no more often than this. */
const CALM_MS = 5_000;

const view = new View();
const state = byId("state");
const banner = byId("banner");
const pause = byId<HTMLButtonElement>("pause");
const calm = matchMedia("(prefers-reduced-motion: reduce)");

let paused = false;
let version: string | null = null;
let shown = -Infinity;
let fault: string | null = null;

/** Changes only with the state, as a screen reader says it each time. */
function tell(kind: "connecting" | "live" | "paused" | "away", words: string): void {
  state.dataset["state"] = kind;
  say(state, words);
}

function warn(words: string): void {
  banner.hidden = words === "";
  say(banner, words);
}

const stream = new Stream(
  (frame: Frame) => {
    version ??= frame.version;
    if (frame.version !== version) {
      // The service was replaced: its page is another one, too.
      location.reload();
      return;
    }
    const now = performance.now();
    if (calm.matches && frame.fault === fault && now - shown < CALM_MS) return;
    shown = now;
    fault = frame.fault;
    view.show(frame);
    if (fault) {
      tell("away", `No figures: ${fault}`);
      warn("What is shown of posts and records is from before. It goes on by itself as soon as the database answers.");
    } else {
      tell("live", "Live");
      warn("");
    }
  },
  () => {
    shown = -Infinity;
    tell("away", "No connection to the service");
    warn("What is shown is from before. It goes on by itself as soon as the service answers.");
  },
);

function follow(): void {
  if (paused || document.hidden) stream.close();
  else stream.open();
}

pause.addEventListener("click", () => {
  paused = !paused;
  say(pause, paused ? "Resume" : "Pause");
  shown = -Infinity;
  tell(paused ? "paused" : "connecting", paused ? "Paused" : "Connecting");
  follow();
});
document.addEventListener("visibilitychange", follow);
follow();
