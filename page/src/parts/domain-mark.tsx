import { hue } from "../format";

/** A domain's name with the colour that is its own on every view. */
export function DomainMark({ name }: { name: string }) {
  return (
    <span class="domain-mark">
      <i style={{ "--hue": hue(name) }} class={name === "base" ? "base" : ""} aria-hidden="true" />
      {name}
    </span>
  );
}
