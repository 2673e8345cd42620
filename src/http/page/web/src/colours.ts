// A colour for every emotion, on light and on dark ground: each stands out from its ground by 3 to 1 or more.

type Pair = readonly [light: string, dark: string];

const KNOWN: Record<string, Pair> = {
  joy: ["#b07d00", "#f0b429"],
  anger: ["#c8322b", "#f2665e"],
  sadness: ["#2f6fb5", "#62a5f0"],
  fear: ["#7a4bb8", "#b48df0"],
  surprise: ["#0b8a8a", "#3fc5c5"],
  disgust: ["#5a7d1b", "#9bc24a"],
  neutral: ["#7b828c", "#8f98a4"],
  love: ["#c0397f", "#f07fb6"],
  optimism: ["#2f8f4e", "#6fd08d"],
  positive: ["#2f8f4e", "#6fd08d"],
  negative: ["#c8322b", "#f2665e"],
  others: ["#8d8371", "#b3a890"],
};

const SPARE: Pair[] = [
  ["#a0522d", "#d99a73"],
  ["#4a6b8a", "#9ab8d6"],
  ["#8a3d6b", "#d48db8"],
  ["#3d7a6b", "#85c9b8"],
  ["#6b6b2d", "#c2c27a"],
  ["#b5541c", "#f29b66"],
  ["#54549e", "#a3a3ea"],
  ["#2d7d9a", "#7cc7e0"],
];

const given = new Map<string, Pair>();

/** The colour of an emotion; the same one for as long as the page is open. */
export function colour(emotion: string, dark: boolean): string {
  const name = emotion.toLowerCase();
  let pair = Object.hasOwn(KNOWN, name) ? KNOWN[name] : given.get(name);
  if (!pair) {
    pair = SPARE[given.size % SPARE.length] as Pair;
    given.set(name, pair);
  }
  return pair[dark ? 1 : 0];
}
