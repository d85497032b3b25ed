import { useKey } from "../api";

/** Asks for a key, which stays in this tab. */
export function KeyForm({ why }: { why: string }) {
  return (
    <form
      class="card key"
      onSubmit={(event) => {
        event.preventDefault();
        useKey(String(new FormData(event.currentTarget).get("key") ?? ""));
      }}
    >
      <h2>An access key is needed</h2>
      {why && <p class="bad">{why}</p>}
      <label>
        Key
        <input name="key" type="password" autocomplete="off" required spellcheck={false} />
      </label>
      <button>Use it</button>
      <p class="quiet">It is kept in this tab only. `anabranch keys create` makes one.</p>
    </form>
  );
}
