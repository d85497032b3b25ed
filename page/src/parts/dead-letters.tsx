// Records that could not be read: look, mend, send again.
import { signal } from "@preact/signals";
import { useEffect, useState } from "preact/hooks";
import { ask, words } from "../api";
import type { Letter, LetterList, ReplayResult } from "../bodies";
import { bytes, clock, count, plural } from "../format";
import { system } from "../live";

const found = signal<LetterList | null>(null);
const said = signal<{ words: string; isBad: boolean } | null>(null);

async function load(): Promise<void> {
  try {
    found.value = await ask<LetterList>("GET", "/v1/dead-letters");
  } catch (error) {
    said.value = { words: words(error), isBad: true };
  }
}

async function replay(body?: unknown): Promise<void> {
  said.value = { words: "Under way", isBad: false };
  try {
    const done = await ask<ReplayResult>("POST", "/v1/dead-letters/replay", body);
    said.value = {
      words: [`${plural(done.replayed, "record")} in the stream again.`, ...done.kept].join(" "),
      isBad: done.kept.length > 0,
    };
  } catch (error) {
    said.value = { words: words(error), isBad: true };
  }
  await load();
}

export function DeadLetters() {
  const refused = system.value?.ingest.reduce((sum, worker) => sum + worker.dead_letters, 0);
  useEffect(() => void load(), [refused]);
  const letters = found.value?.letters ?? [];
  return (
    <section aria-labelledby="letters">
      <h2 id="letters">Dead letters</h2>
      <p class="quiet">
        {letters.length
          ? `${count(found.value!.total)} records of the stream could not be read. Each is kept with its reason until it is sent again.`
          : "No record of the stream was unreadable."}
      </p>
      <p role="status" class={said.value?.isBad ? "bad" : "quiet"}>
        {said.value?.words}
      </p>
      {letters.length > 1 && <button onClick={() => void replay()}>Send all again as they are</button>}
      {letters.slice(0, 50).map((letter) => (
        <One key={`${letter.topic} ${letter.partition} ${letter.offset}`} letter={letter} />
      ))}
    </section>
  );
}

function One({ letter }: { letter: Letter }) {
  const [text, setText] = useState(letter.text ?? "");
  const place = { topic: letter.topic, partition: letter.partition, offset: letter.offset };
  const isShort = letter.whole && letter.bytes <= 64 << 10;
  return (
    <details class="card letter">
      <summary>
        <b>{letter.reason}</b>: {letter.detail}
      </summary>
      <p class="quiet">
        {letter.topic}[{letter.partition}] offset {letter.offset}, {clock(letter.at)}, {bytes(letter.bytes)}
        {!letter.whole && ", kept in part"}
      </p>
      <label>
        The record
        <textarea rows={4} value={text} spellcheck={false} onInput={(event) => setText(event.currentTarget.value)} />
      </label>
      <div class="row">
        <button disabled={!text.trim() || (text === letter.text && !isShort)} onClick={() => void replay({ letters: [{ ...place, text }] })}>
          Send it like this
        </button>
        {letter.whole && (
          <button class="plain" onClick={() => void replay({ letters: [{ ...place, text: null }] })}>
            Send it again as it was
          </button>
        )}
      </div>
    </details>
  );
}
