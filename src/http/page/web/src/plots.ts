// The two plots: shares as stacked areas, posts as stacked bars.

import {
  BarController,
  BarElement,
  CategoryScale,
  Chart,
  Filler,
  LinearScale,
  LineController,
  LineElement,
  PointElement,
  Tooltip,
  type ChartConfiguration,
  type TooltipItem,
} from "chart.js";
import { colour } from "./colours";
import { count, minute } from "./format";
import type { Emotion, Figures } from "./types";

Chart.register(BarController, BarElement, CategoryScale, Filler, LinearScale, LineController, LineElement, PointElement, Tooltip);

/** The most series that can be told apart; the smaller emotions are added up. */
const MOST = 8;

/** The emotions as they are plotted. */
export function series(emotions: Emotion[]): Emotion[] {
  if (emotions.length <= MOST) return emotions;
  const rest = emotions.slice(MOST - 1);
  const others: Emotion = { name: "others", posts: 0, score: 0, minutes: [] };
  for (const one of rest) {
    others.posts += one.posts;
    one.minutes.forEach((posts, at) => (others.minutes[at] = (others.minutes[at] ?? 0) + posts));
  }
  return [...emotions.slice(0, MOST - 1), others];
}

/** What of an axis follows the theme. */
interface Axis {
  ticks?: { color?: string };
  grid?: { color?: string };
  border?: { color?: string };
}

interface Look {
  dark: boolean;
  ink: string;
  line: string;
  card: string;
}

function look(): Look {
  const style = getComputedStyle(document.documentElement);
  const of = (name: string): string => style.getPropertyValue(name).trim();
  return {
    dark: matchMedia("(prefers-color-scheme: dark)").matches,
    ink: of("--faint"),
    line: of("--line"),
    card: of("--card"),
  };
}

export class Plots {
  private readonly share: Chart;
  private readonly posts: Chart;
  private last: Figures | null = null;

  constructor(share: HTMLCanvasElement, posts: HTMLCanvasElement) {
    this.share = new Chart(share, config("line", 100, (value) => `${value} %`));
    this.posts = new Chart(posts, config("bar", undefined, (value) => count(value)));
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.last && this.show(this.last));
  }

  show(figures: Figures): void {
    this.last = figures;
    const theme = look();
    const shown = series(figures.emotions);
    const length = Math.round((figures.end - figures.start) / 60);
    const labels = Array.from({ length }, (_, at) => minute(figures.start + at * 60));
    const totals = labels.map((_, at) => shown.reduce((sum, one) => sum + (one.minutes[at] ?? 0), 0));
    this.share.data = {
      labels,
      datasets: shown.map((one, place) => ({
        label: one.name,
        data: one.minutes.map((posts, at) => (totals[at] ? (100 * posts) / (totals[at] ?? 1) : null)),
        backgroundColor: colour(one.name, theme.dark),
        borderColor: theme.card,
        borderWidth: 1.5,
        pointRadius: 0,
        pointHitRadius: 0,
        fill: place === 0 ? "origin" : "-1",
      })),
    };
    this.posts.data = {
      labels,
      datasets: shown.map((one) => ({
        label: one.name,
        data: one.minutes,
        backgroundColor: colour(one.name, theme.dark),
        borderColor: theme.card,
        borderWidth: { top: 1 },
        barPercentage: 1,
        categoryPercentage: 0.86,
      })),
    };
    for (const chart of [this.share, this.posts]) {
      for (const axis of Object.values((chart.options.scales ?? {}) as Record<string, Axis>)) {
        if (axis.ticks) axis.ticks.color = theme.ink;
        if (axis.grid) axis.grid.color = theme.line;
        if (axis.border) axis.border.color = theme.line;
      }
      chart.update("none");
    }
  }
}

function config(type: "line" | "bar", max: number | undefined, words: (value: number) => string): ChartConfiguration {
  return {
    type,
    data: { labels: [], datasets: [] },
    options: {
      animation: false,
      responsive: true,
      maintainAspectRatio: false,
      interaction: { mode: "index", intersect: false },
      scales: {
        x: {
          stacked: true,
          grid: { display: false },
          border: {},
          ticks: { maxRotation: 0, autoSkipPadding: 24 },
        },
        y: {
          stacked: true,
          beginAtZero: true,
          ...(max === undefined ? {} : { max }),
          border: { display: false },
          grid: {},
          ticks: { maxTicksLimit: 5, precision: 0, callback: (value) => words(Number(value)) },
          // Both plots begin at the same place.
          afterFit: (axis) => {
            axis.width = 52;
          },
        },
      },
      plugins: {
        tooltip: {
          itemSort: (a, b) => b.datasetIndex - a.datasetIndex,
          callbacks: {
            label: (item: TooltipItem<"line" | "bar">) =>
              `${item.dataset.label ?? ""}  ${max ? `${Number(item.raw).toFixed(1)} %` : words(Number(item.raw))}`,
          },
        },
      },
    },
  };
}
