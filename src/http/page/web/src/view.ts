// A frame put on the page.

import { colour } from "./colours";
import { byId, figure, make, numberCell, say, showFigure, swatch } from "./dom";
import { count, date, iso, minute, percent, rate, score, second, span } from "./format";
import { Plots, series } from "./plots";
import type { Figures, Frame, Post, Process, Subject } from "./types";

export class View {
  private readonly plots = new Plots(byId<HTMLCanvasElement>("share"), byId<HTMLCanvasElement>("count"));
  private readonly dark = matchMedia("(prefers-color-scheme: dark)");
  private readonly minutes = byId<HTMLDetailsElement>("minutes");
  private figures: Figures | null = null;
  private newest = "";

  constructor() {
    this.minutes.addEventListener("toggle", () => this.showMinutes());
    this.dark.addEventListener("change", () => {
      this.newest = "";
      if (this.figures) this.showFigures(this.figures);
    });
  }

  show(frame: Frame): void {
    if (frame.figures) this.showFigures(frame.figures);
    this.showProcess(frame.process);
    say(byId("version"), `moodstream ${frame.version}`);
  }

  private showFigures(figures: Figures): void {
    this.figures = figures;
    const all = figures.emotions.reduce((sum, one) => sum + one.posts, 0);
    const length = Math.round((figures.end - figures.start) / 60);
    const past = figures.end <= figures.now;
    showFigure("posts", all, count(all));
    say(byId("posts-note"), past ? `in ${length} minutes, the last that hold any` : `in the last ${length} minutes`);
    showFigure("rate", figures.rate, rate(figures.rate ?? 0));
    showFigure("rejected", figures.tally.rejected, count(figures.tally.rejected));
    say(byId("rejected-note"), `of ${count(figures.tally.records)} records, whole group`);
    const from = minute(figures.start);
    const to = minute(figures.end);
    byId("range").replaceChildren(
      past ? `${date(figures.start)}, ` : "",
      make("time", { datetime: iso(figures.start) }, from),
      " to ",
      make("time", { datetime: iso(figures.end) }, past ? to : "now"),
    );
    say(byId("asof"), `as of ${second(figures.now)}`);
    say(byId("group"), `(group ${figures.group})`);
    this.plots.show(figures);
    this.showEmotions(figures, all);
    this.showMinutes();
    this.showSubjects(figures.subjects);
    this.showPosts(figures.posts);
    const { tally } = figures;
    rows("tally", [
      ["inserted", tally.inserted],
      ["duplicates", tally.duplicates],
      ["deletions", tally.deletions],
      ["filtered", tally.filtered],
      ["late", tally.late],
      ["rejected", tally.rejected],
      ["all records", tally.records],
    ]);
  }

  private showEmotions(figures: Figures, all: number): void {
    const body = figures.emotions.map((one) =>
      make(
        "tr",
        { "data-emotion": one.name },
        make("th", { scope: "row" }, swatch(this.swatchOf(one.name, figures)), one.name),
        numberCell(one.posts, count(one.posts)),
        numberCell(all ? one.posts / all : 0, percent(one.posts, all)),
        numberCell(one.score, score(one.score)),
      ),
    );
    tbody("emotions").replaceChildren(...body);
    const words = series(figures.emotions).map((one) => `${one.name} ${percent(one.posts, all)}`);
    const said = all ? `${words.join(", ")}.` : "No posts.";
    say(byId("share-words"), `From ${minute(figures.start)} to ${minute(figures.end)}: ${said} Minute by minute in the table below.`);
    const most = Math.max(0, ...minuteTotals(figures));
    say(byId("count-words"), `From ${minute(figures.start)} to ${minute(figures.end)}: ${count(all)} posts, at most ${count(most)} in a minute.`);
  }

  /** The colour that an emotion has in the plots: of the small ones, that of their sum. */
  private swatchOf(name: string, figures: Figures): string {
    const plotted = series(figures.emotions).some((one) => one.name === name);
    return colour(plotted ? name : "others", this.dark.matches);
  }

  private showMinutes(): void {
    const { figures } = this;
    if (!figures || !this.minutes.open) return;
    const names = figures.emotions.map((one) => make("th", { scope: "col", class: "number" }, one.name));
    const head = make("tr", {}, make("th", { scope: "col" }, "Minute"), make("th", { scope: "col", class: "number" }, "All"), ...names);
    const body = minuteTotals(figures).map((total, at) => {
      const seconds = figures.start + at * 60;
      return make(
        "tr",
        {},
        make("th", { scope: "row" }, make("time", { datetime: iso(seconds) }, minute(seconds))),
        numberCell(total, count(total)),
        ...figures.emotions.map((one) => numberCell(one.minutes[at] ?? 0, count(one.minutes[at] ?? 0))),
      );
    });
    const table = this.minutes.querySelector("table");
    table?.tHead?.replaceChildren(head);
    table?.tBodies[0]?.replaceChildren(...body.reverse());
  }

  private showSubjects(subjects: Subject[]): void {
    byId("subjects").hidden = subjects.length === 0;
    byId("no-subjects").hidden = subjects.length > 0;
    const body = subjects.map((subject) => {
      const words = subject.emotions.map(([name, posts]) => `${name} ${percent(posts, subject.posts)}`).join(", ");
      const bar = make("div", { class: "bar", role: "img", "aria-label": words, title: words });
      for (const [name, posts] of subject.emotions) {
        const part = make("span");
        part.style.width = `${(100 * posts) / subject.posts}%`;
        part.style.background = colour(name, this.dark.matches);
        bar.append(part);
      }
      const [first] = subject.emotions;
      const lead = first ? `${first[0]} ${percent(first[1], subject.posts)}` : "";
      return make(
        "tr",
        { "data-subject": subject.name },
        make("th", { scope: "row" }, make("bdi", {}, subject.name)),
        numberCell(subject.posts, count(subject.posts)),
        make("td", {}, bar, make("span", { class: "note" }, lead)),
      );
    });
    tbody("subjects").replaceChildren(...body);
  }

  private showPosts(posts: Post[] | null): void {
    const state = JSON.stringify(posts);
    if (state === this.newest) return;
    this.newest = state;
    const none = byId("no-posts");
    none.hidden = posts !== null && posts.length > 0;
    say(none, posts === null ? 'Posts are not shown here: the setting http.page = "posts" shows them.' : "No posts in these minutes.");
    byId("newest").replaceChildren(...(posts ?? []).map((post) => this.post(post)));
  }

  private post(post: Post): HTMLLIElement {
    // The language helps a screen reader to pronounce; only what is a language becomes an attribute.
    const known = /^[a-z]{2,3}$/.test(post.lang) && post.lang !== "und";
    const text = make("p", { class: "text", dir: "auto", ...(known ? { lang: post.lang } : {}) });
    text.textContent = post.text;
    const about = [post.source, ...(post.repost ? ["repost"] : []), ...(known ? [post.lang] : [])].join(" · ");
    return make(
      "li",
      {},
      make(
        "div",
        { class: "mood" },
        swatch(colour(post.emotion, this.dark.matches)),
        `${post.emotion} `,
        make("span", { class: "note" }, figure(post.score, score(post.score))),
      ),
      text,
      make("div", { class: "about" }, make("time", { datetime: iso(post.at) }, second(post.at)), ` ${about}`),
    );
  }

  private showProcess(process: Process): void {
    showFigure("lag", process.lag, count(process.lag));
    const held = process.partitions === 1 ? "1 partition" : `${count(process.partitions)} partitions`;
    say(byId("lag-note"), `records, in the ${held} of this process`);
    showFigure("delay", process.delay?.p50 ?? null, span(process.delay?.p50 ?? 0));
    say(byId("delay-note"), process.delay ? `broker to row, median; 95 % within ${span(process.delay.p95)}` : "broker to row");
    byId("rejects").hidden = process.rejects.length === 0;
    rows("rejects", process.rejects);
    const lines = process.faults.map((fault) => `Not ready: ${fault}`);
    if (process.model) lines.push(`Model ${process.model}`);
    const known = byId("process");
    if (known.innerText !== lines.join("\n")) known.replaceChildren(...lines.map((line) => make("p", {}, line)));
  }
}

function minuteTotals(figures: Figures): number[] {
  const length = Math.round((figures.end - figures.start) / 60);
  return Array.from({ length }, (_, at) => figures.emotions.reduce((sum, one) => sum + (one.minutes[at] ?? 0), 0));
}

function tbody(id: string): HTMLTableSectionElement {
  const body = byId<HTMLTableElement>(id).tBodies[0];
  if (!body) throw new Error(`#${id} has no body`);
  return body;
}

function rows(id: string, pairs: [string, number][]): void {
  const body = pairs.map(([name, value]) =>
    make("tr", { "data-name": name }, make("th", { scope: "row" }, name), numberCell(value, count(value))),
  );
  tbody(id).replaceChildren(...body);
}
