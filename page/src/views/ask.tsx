// Ask, see who answers and why, compare with others, and teach it better.
import { type Signal, signal } from "@preact/signals";
import { useEffect, useState } from "preact/hooks";
import { to } from "../address";
import { ask, events, send, words } from "../api";
import type { RecordsResult, RouteDecision, RouteResult } from "../bodies";
import { connection, domains } from "../live";
import { DomainMark } from "../parts/domain-mark";
import { Scores } from "../parts/scores";

interface Answer {
  model: string;
  text: Signal<string>;
  /** Who answered; null until the first event. */
  decision: Signal<RouteDecision | null>;
  manifest: Signal<number>;
  state: Signal<"writing" | "done" | "stopped" | "failed">;
  problem: Signal<string>;
  seconds: Signal<number | null>;
}

interface Turn {
  number: number;
  kind: "chat" | "completion";
  prompt: string;
  /** What came before, of a chat. */
  history: { role: string; content: string }[];
  limit: number;
  answers: Signal<Answer[]>;
  /** With all scores, as `/v1/route` gives them. */
  scored: Signal<RouteDecision | null>;
}

const turns = signal<Turn[]>([]);
const kind = signal<"chat" | "completion">("chat");
const goesOn = signal(false);
const limit = signal(128);
const models = signal<string[]>([]);
let stop: AbortController | null = null;
const busy = signal(0);

interface Event {
  error?: { message: string };
  anabranch?: RouteResult;
  choices?: { delta?: { content?: string }; text?: string }[];
}

async function answer(turn: Turn, model: string): Promise<void> {
  const one: Answer = {
    model,
    text: signal(""),
    decision: signal(null),
    manifest: signal(0),
    state: signal("writing"),
    problem: signal(""),
    seconds: signal(null),
  };
  turn.answers.value = [...turn.answers.value, one];
  const began = performance.now();
  const messages = [...turn.history, { role: "user", content: turn.prompt }];
  const chat = turn.kind === "chat";
  const body = {
    model,
    stream: true,
    temperature: 0,
    max_tokens: turn.limit,
    ...(chat ? { messages } : { prompt: turn.prompt }),
  };
  stop ??= new AbortController();
  const own = stop;
  busy.value += 1;
  try {
    const told = await send("POST", chat ? "/v1/chat/completions" : "/v1/completions", body, own.signal);
    let ended = false;
    for await (const { data } of events(told)) {
      if (data === "[DONE]") {
        ended = true;
        continue;
      }
      const event = JSON.parse(data) as Event;
      if (event.error) throw new Error(event.error.message);
      if (event.anabranch) {
        one.decision.value = event.anabranch.decisions[0] ?? null;
        one.manifest.value = event.anabranch.manifest;
      }
      const piece = event.choices?.[0];
      one.text.value += piece?.delta?.content ?? piece?.text ?? "";
    }
    if (!ended) throw new Error("The answer was cut off.");
    one.state.value = "done";
  } catch (error) {
    one.state.value = own.signal.aborted ? "stopped" : "failed";
    if (!own.signal.aborted) one.problem.value = words(error);
  }
  one.seconds.value = (performance.now() - began) / 1000;
  busy.value -= 1;
  if (!busy.value) stop = null;
  if (!turn.scored.value && one.model === "auto") {
    const question = chat ? { messages } : { input: turn.prompt };
    const result = await ask<RouteResult>("POST", "/v1/route", question).catch(() => null);
    turn.scored.value = result?.decisions[0] ?? null;
  }
}

export default function Ask() {
  const [model, setModel] = useState("auto");
  useEffect(() => {
    void ask<{ data: { id: string }[] }>("GET", "/v1/models")
      .then((found) => (models.value = found.data.map((each) => each.id)))
      .catch(() => undefined);
  }, [domains.value.filter((domain) => domain.version).length, connection.value]);

  const submit = (event: SubmitEvent): void => {
    event.preventDefault();
    const form = event.currentTarget as HTMLFormElement;
    const prompt = String(new FormData(form).get("prompt") ?? "");
    if (!prompt.trim()) return;
    const last = turns.value.at(-1);
    const said = last?.answers.value[0];
    const history =
      goesOn.value && last && said && kind.value === "chat"
        ? [...last.history, { role: "user", content: last.prompt }, { role: "assistant", content: said.text.value }]
        : [];
    const turn: Turn = {
      number: turns.value.length + 1,
      kind: kind.value,
      prompt,
      history,
      limit: limit.value,
      answers: signal([]),
      scored: signal(null),
    };
    turns.value = [...turns.value, turn].slice(-50);
    form.reset();
    void answer(turn, model);
  };

  return (
    <>
      <form class="card asking" onSubmit={submit}>
        <label>
          Prompt
          <textarea
            name="prompt"
            rows={3}
            required
            onKeyDown={(event) => {
              if (event.key === "Enter" && !event.shiftKey) {
                event.preventDefault();
                event.currentTarget.form!.requestSubmit();
              }
            }}
          />
        </label>
        <div class="row">
          <label>
            Model{" "}
            <input list="models" value={model} onInput={(event) => setModel(event.currentTarget.value)} required size={18} />
          </label>
          <datalist id="models">
            {models.value.map((name) => (
              <option key={name} value={name} />
            ))}
          </datalist>
          <label>
            As{" "}
            <select value={kind.value} onChange={(event) => (kind.value = event.currentTarget.value as "chat")}>
              <option value="chat">chat</option>
              <option value="completion">completion</option>
            </select>
          </label>
          <label>
            Tokens{" "}
            <input
              type="number"
              min={1}
              max={4096}
              value={limit.value}
              onInput={(event) => (limit.value = Math.max(1, event.currentTarget.valueAsNumber || 1))}
            />
          </label>
          <label>
            <input
              type="checkbox"
              checked={goesOn.value}
              onChange={(event) => (goesOn.value = event.currentTarget.checked)}
            />{" "}
            go on with the chat
          </label>
          <span class="spring" />
          {busy.value > 0 && (
            <button type="button" onClick={() => stop?.abort()}>
              Stop
            </button>
          )}
          <button>Ask</button>
        </div>
      </form>
      <div aria-live="polite" aria-relevant="additions">
        {[...turns.value].reverse().map((turn) => (
          <TurnView key={turn.number} turn={turn} />
        ))}
      </div>
      {!turns.value.length && (
        <p class="quiet">Ask something: with the model auto the domain that scores highest answers, or the base.</p>
      )}
    </>
  );
}

function TurnView({ turn }: { turn: Turn }) {
  const answers = turn.answers.value;
  const asked = new Set(answers.map((each) => each.model));
  const others = models.value.filter((name) => !name.includes("@") && name !== "auto" && !asked.has(name));
  return (
    <article class="card turn" aria-label={`Question ${turn.number}`}>
      <p class="prompt">{turn.prompt}</p>
      <div class="answers">
        {answers.map((each, place) => (
          <AnswerView key={place} turn={turn} answer={each} />
        ))}
      </div>
      <div class="row">
        {!asked.has("base") && <button onClick={() => void answer(turn, "base")}>The same by the base</button>}
        {others.filter((name) => name !== "base").length > 0 && (
          <label>
            The same by{" "}
            <select
              value=""
              onChange={(event) => {
                const name = event.currentTarget.value;
                event.currentTarget.value = "";
                if (name) void answer(turn, name);
              }}
            >
              <option value="">another domain</option>
              {others
                .filter((name) => name !== "base")
                .map((name) => (
                  <option key={name}>{name}</option>
                ))}
            </select>
          </label>
        )}
      </div>
      {turn.scored.value && (
        <details open class="decision">
          <summary>Why</summary>
          <Scores decision={turn.scored.value} />
        </details>
      )}
    </article>
  );
}

function AnswerView({ turn, answer }: { turn: Turn; answer: Answer }) {
  const [isTeaching, setTeaching] = useState(false);
  const decision = answer.decision.value;
  return (
    <section class="answer" aria-label={`Answer by ${decision?.domain ?? answer.model}`}>
      <h3>{decision ? <DomainMark name={decision.domain} /> : answer.model}</h3>
      <p class={`text ${answer.state.value === "writing" ? "is-writing" : ""}`}>{answer.text.value}</p>
      {answer.problem.value && (
        <p class="bad" role="alert">
          {answer.problem.value}
        </p>
      )}
      {decision && (
        <p class="quiet">
          {decision.adapter}, manifest {answer.manifest.value}
          {decision.abstained && `; ${decision.abstained}`}
          {answer.seconds.value !== null && `; ${answer.seconds.value.toFixed(1)} s`}
          {answer.state.value === "stopped" && "; stopped"}
        </p>
      )}
      {answer.state.value !== "writing" &&
        (isTeaching ? (
          <Teach turn={turn} answer={answer} onDone={() => setTeaching(false)} />
        ) : (
          <button class="plain" onClick={() => setTeaching(true)}>
            Edit and send as an example
          </button>
        ))}
    </section>
  );
}

function Teach({ turn, answer, onDone }: { turn: Turn; answer: Answer; onDone: () => void }) {
  const [said, setSaid] = useState<{ words: string; isBad: boolean } | null>(null);
  const own = answer.decision.value?.domain;
  const submit = async (event: SubmitEvent): Promise<void> => {
    event.preventDefault();
    const form = new FormData(event.currentTarget as HTMLFormElement);
    const domain = String(form.get("domain")).trim();
    const record = {
      domain,
      ...(turn.kind === "chat" && turn.history.length
        ? { messages: [...turn.history, { role: "user", content: turn.prompt }] }
        : { prompt: turn.prompt }),
      completion: String(form.get("completion")),
    };
    try {
      await ask<RecordsResult>("POST", "/v1/records", record);
      setSaid({ words: `It is in the stream; ${domain} learns of it with its next examples.`, isBad: false });
    } catch (error) {
      setSaid({ words: words(error), isBad: true });
    }
  };
  return (
    <form class="teach" onSubmit={(event) => void submit(event)}>
      <label>
        What should have been said
        <textarea name="completion" rows={3} required defaultValue={answer.text.value} />
      </label>
      <label>
        Domain <input name="domain" required pattern="[a-z0-9][a-z0-9_\-]{0,62}" defaultValue={own === "base" ? "" : own} />
      </label>
      <div class="row">
        <button>Send</button>
        <button type="button" onClick={onDone}>
          Close
        </button>
        {own && own !== "base" && <a href={to("domains", own)}>See the domain</a>}
      </div>
      <p role="status" class={said?.isBad ? "bad" : "quiet"}>
        {said?.words}
      </p>
    </form>
  );
}
