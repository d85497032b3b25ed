import type { RouteDecision } from "../bodies";
import { hue, number } from "../format";
import { DomainMark } from "./domain-mark";

/** What each domain scored, the best first, and what the best had to reach. */
export function Scores({ decision, most = 8 }: { decision: RouteDecision; most?: number }) {
  const sorted = Object.entries(decision.scores).sort((one, other) => other[1] - one[1]);
  if (!sorted.length) return <p class="quiet">Nothing was scored: {decision.abstained ?? "a model was named"}.</p>;
  const shown = sorted.slice(0, most);
  const low = Math.min(0, ...shown.map(([, score]) => score));
  const high = Math.max(...shown.map(([, score]) => score), low + 1e-9);
  return (
    <>
      <ul class="scores" aria-label="Scores by domain">
        {shown.map(([name, score]) => (
          <li key={name}>
            <DomainMark name={name} />
            <span class="bar" aria-hidden="true">
              <i style={{ width: `${(100 * (score - low)) / (high - low)}%`, "--hue": hue(name) }} />
            </span>
            <span class="figure">{number(score)}</span>
          </li>
        ))}
      </ul>
      {sorted.length > most && <p class="quiet">and {sorted.length - most} that score lower</p>}
      <Threshold decision={decision} />
    </>
  );
}

/** The confidence on one line with what it has to reach: left of the mark the base answers. */
function Threshold({ decision: { confidence, threshold, abstained } }: { decision: RouteDecision }) {
  if (confidence === null) return null;
  if (threshold === null) return <p class="quiet">Confidence {number(confidence)}; any will do.</p>;
  const low = Math.min(confidence, threshold);
  const span = Math.max(Math.abs(confidence - threshold), 0.25 * Math.abs(threshold), 1e-9);
  const at = (value: number): string => `${Math.min(98, Math.max(2, 25 + (50 * (value - low)) / span))}%`;
  return (
    <div class="threshold">
      <div class="line" aria-hidden="true">
        <i class="mark" style={{ left: at(threshold) }} />
        <i class={`dot ${abstained ? "is-below" : ""}`} style={{ left: at(confidence) }} />
      </div>
      <p class={abstained ? "" : "quiet"}>
        {abstained
          ? `Left to the base: ${abstained}.`
          : `Confidence ${number(confidence)}, and ${number(threshold)} is enough for a domain to answer.`}
      </p>
    </div>
  );
}
