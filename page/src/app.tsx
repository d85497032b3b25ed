import { useEffect, useRef } from "preact/hooks";
import { lazy, Suspense } from "preact/compat";
import { key, keyWanted, useKey } from "./api";
import { place, to } from "./address";
import { connection, system, trouble } from "./live";
import { KeyForm } from "./parts/key-form";
import { River } from "./views/river";
import { Domains } from "./views/domains";
import { dark, turn } from "./theme";

const Ask = lazy(() => import("./views/ask"));
const Accuracy = lazy(() => import("./views/accuracy"));
const Decisions = lazy(() => import("./views/decisions"));
const MapView = lazy(() => import("./views/map"));
const Publications = lazy(() => import("./views/publications"));
const Feed = lazy(() => import("./views/feed"));

const VIEWS = [
  { name: "", title: "River", shown: River },
  { name: "domains", title: "Domains", shown: Domains },
  { name: "ask", title: "Ask", shown: Ask },
  { name: "feed", title: "Feed", shown: Feed },
  { name: "accuracy", title: "Accuracy", shown: Accuracy },
  { name: "decisions", title: "Decisions", shown: Decisions },
  { name: "map", title: "Map", shown: MapView },
  { name: "publications", title: "Publications", shown: Publications },
];
/** What a key that is no administrator's can do. */
const OPEN_TO_ALL = new Set(["ask", "feed"]);

const SAYS = { connecting: "connecting", live: "live", away: "not reached", limited: "not shown to this key" };

export function App() {
  const now = VIEWS.find((view) => view.name === place.value.view) ?? VIEWS[0]!;
  const heading = useRef<HTMLHeadingElement>(null);
  const isFirst = useRef(true);
  useEffect(() => {
    document.title = `${now.title} · Anabranch`;
    // Whoever does not see the page change is told so.
    if (!isFirst.current) heading.current?.focus();
    isFirst.current = false;
  }, [now]);
  const Shown = now.shown;
  const isClosed = connection.value === "limited" && !OPEN_TO_ALL.has(now.name);
  return (
    <>
      <a class="skip" href="#main" onClick={(event) => (event.preventDefault(), document.getElementById("main")!.focus())}>
        Skip to content
      </a>
      <header class="top">
        <a class="name" href={to("")}>
          <svg viewBox="0 0 32 32" width="26" height="26" aria-hidden="true">
            <path d="M3 16h6c5 0 5-9 11-9h9M9 16c5 0 5 9 11 9h9" />
            <path class="mid" d="M9 16h20" />
          </svg>
          Anabranch
        </a>
        <nav aria-label="Views">
          <ul>
            {VIEWS.map((view) => (
              <li key={view.name}>
                <a href={to(view.name)} aria-current={view === now ? "page" : undefined}>
                  {view.title}
                </a>
              </li>
            ))}
          </ul>
        </nav>
        <div class="end">
          {system.value && <span class="manifest">manifest {system.value.manifest}</span>}
          <span class={`connection ${connection.value}`} role="status">
            {SAYS[connection.value]}
          </span>
          {key.value && (
            <button class="plain" onClick={() => useKey("")}>
              Forget key
            </button>
          )}
          <button class="plain" onClick={turn} aria-pressed={dark.value}>
            Dark
          </button>
        </div>
      </header>
      <main id="main" tabIndex={-1}>
        <h1 ref={heading} tabIndex={-1}>
          {now.title}
        </h1>
        {trouble.value && (
          <p class="trouble" role="alert">
            {trouble.value}
          </p>
        )}
        {keyWanted.value !== null && <KeyForm why={keyWanted.value} />}
        {isClosed ? (
          keyWanted.value === null && (
            <p>
              This view is for a key of scope <code>admin</code> and all domains. With this key you can{" "}
              <a href={to("ask")}>ask</a> or <a href={to("feed")}>feed</a>.
            </p>
          )
        ) : (
          <Suspense fallback={<p class="quiet">Loading</p>}>
            <Shown />
          </Suspense>
        )}
      </main>
    </>
  );
}
