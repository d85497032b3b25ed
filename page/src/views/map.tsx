// Decisions on a plane: each domain has a place of its own on a circle, for good, and draws a prompt by its score.
//
// The scores are the router's linear projection of the features; the plane is theirs onto the domains' places, weighted
// by a softmax, so that a prompt near a place is surely of that domain, and one in the middle of none.
import { signal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { to } from "../address";
import { ask, words } from "../api";
import type { DecisionList, DecisionRecord } from "../bodies";
import { hue, number } from "../format";
import { DomainMark } from "../parts/domain-mark";
import { dark } from "../theme";
import { OffNotice } from "./decisions";

const MOST = 1000;
const SIZE = 640;
/** In the scores' unit, which is about 1 from one domain to another. */
const SHARPNESS = 6;

const found = signal<DecisionRecord[]>([]);
const keep = signal<number | null>(null);
const problem = signal("");
const near = signal<DecisionRecord | null>(null);

interface Point {
  x: number;
  y: number;
  of: DecisionRecord;
}

async function load(): Promise<void> {
  try {
    const list = await ask<DecisionList>("GET", `/v1/decisions?limit=${MOST}`);
    keep.value = list.keep;
    found.value = list.decisions.filter((each) => Object.keys(each.decision.scores).length > 0);
    problem.value = "";
  } catch (error) {
    problem.value = words(error);
  }
}

/** Where a domain stands: by its name alone, so that nobody moves when another comes. */
function anchor(name: string): [number, number] {
  const angle = (hue(name) / 180) * Math.PI;
  return [Math.cos(angle), Math.sin(angle)];
}

function point(of: DecisionRecord): Point {
  const scores = Object.entries(of.decision.scores);
  const best = Math.max(...scores.map(([, score]) => score));
  let [x, y, sum] = [0, 0, 0];
  for (const [name, score] of scores) {
    const weight = Math.exp(SHARPNESS * (score - best));
    const [ax, ay] = anchor(name);
    x += weight * ax;
    y += weight * ay;
    sum += weight;
  }
  // How sure it is of any of them takes it from the middle to where they are; a little is its own.
  const sure = Math.min(1, Math.max(0.05, best));
  const own = (of.at * 7919) % 1;
  return { x: (x / sum) * sure + 0.03 * Math.cos(own * 6.28), y: (y / sum) * sure + 0.03 * Math.sin(own * 6.28), of };
}

export default function MapView() {
  const canvas = useRef<HTMLCanvasElement>(null);
  const points = useRef<Point[]>([]);
  useEffect(() => {
    void load();
    const again = setInterval(() => document.visibilityState === "visible" && void load(), 10_000);
    return () => clearInterval(again);
  }, []);
  const names = [...new Set(found.value.flatMap((each) => Object.keys(each.decision.scores)))].sort();
  useEffect(() => {
    points.current = found.value.map(point);
    if (canvas.current) draw(canvas.current, points.current, names);
  }, [found.value, dark.value]);

  const look = (event: MouseEvent): void => {
    const box = canvas.current!.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * 2 - 1;
    const y = ((event.clientY - box.top) / box.height) * 2 - 1;
    let [best, least] = [null as Point | null, 0.004];
    for (const each of points.current) {
      const away = (each.x * SCALE - x) ** 2 + (each.y * SCALE - y) ** 2;
      if (away < least) [best, least] = [each, away];
    }
    near.value = best?.of ?? null;
  };

  const abstained = found.value.filter((each) => each.decision.abstained).length;
  return (
    <>
      {problem.value && (
        <p class="trouble" role="alert">
          {problem.value}
        </p>
      )}
      {keep.value === 0 && <OffNotice />}
      <div class="map">
        <canvas
          ref={canvas}
          width={SIZE}
          height={SIZE}
          role="img"
          aria-label={`${found.value.length} prompts over ${names.length} domains; ${abstained} left to the base. The view Decisions has them as a table.`}
          onMouseMove={look}
          onClick={() => near.value && (location.hash = to("decisions", near.value.id).slice(1))}
        />
        <div>
          <ul class="plain-list legend">
            {names.slice(0, 40).map((name) => (
              <li key={name}>
                <DomainMark name={name} />
              </li>
            ))}
          </ul>
          <p class="quiet">A hollow one was left to the base. Near the rim a domain is sure of it, in the middle none is.</p>
          <div aria-live="polite">
            {near.value && (
              <>
                <p class="prompt">{near.value.prompt ?? "The text was not kept."}</p>
                <p class="quiet">
                  {near.value.decision.domain}, score {number(near.value.decision.score)}
                </p>
              </>
            )}
          </div>
        </div>
      </div>
    </>
  );
}

/** What of the canvas's half is the circle's radius. */
const SCALE = 0.86;

function draw(canvas: HTMLCanvasElement, points: Point[], names: string[]): void {
  const ink = canvas.getContext("2d")!;
  const style = getComputedStyle(document.documentElement);
  const half = SIZE / 2;
  const light = dark.value ? 62 : 42;
  ink.clearRect(0, 0, SIZE, SIZE);
  ink.strokeStyle = style.getPropertyValue("--line");
  ink.beginPath();
  ink.arc(half, half, half * SCALE, 0, 2 * Math.PI);
  ink.stroke();
  ink.fillStyle = style.getPropertyValue("--ink");
  ink.font = "13px system-ui";
  for (const name of names) {
    const [x, y] = anchor(name);
    ink.fillStyle = `hsl(${hue(name)} 65% ${light}%)`;
    ink.beginPath();
    ink.arc(half + x * half * SCALE, half + y * half * SCALE, 6, 0, 2 * Math.PI);
    ink.fill();
    if (names.length <= 24) {
      ink.fillStyle = style.getPropertyValue("--ink");
      ink.textAlign = x > 0.3 ? "right" : x < -0.3 ? "left" : "center";
      ink.fillText(name, half + x * half * 0.94, half + y * half * 0.94 + (y > 0 ? 14 : -6));
    }
  }
  for (const { x, y, of } of points) {
    ink.beginPath();
    ink.arc(half + x * half * SCALE, half + y * half * SCALE, 4, 0, 2 * Math.PI);
    const colour = of.decision.domain === "base" ? style.getPropertyValue("--quiet") : `hsl(${hue(of.decision.domain)} 65% ${light}%)`;
    if (of.decision.abstained) {
      ink.strokeStyle = colour;
      ink.stroke();
    } else {
      ink.globalAlpha = 0.7;
      ink.fillStyle = colour;
      ink.fill();
      ink.globalAlpha = 1;
    }
  }
}
