// Light or dark: as the system has it, until the person says otherwise.
import { effect, signal } from "@preact/signals";

const KEPT = "anabranch-theme";
const kept = localStorage.getItem(KEPT);
const system = matchMedia("(prefers-color-scheme: dark)");

export const dark = signal(kept ? kept === "dark" : system.matches);
system.addEventListener("change", (now) => {
  if (!localStorage.getItem(KEPT)) dark.value = now.matches;
});

export function turn(): void {
  dark.value = !dark.value;
  localStorage.setItem(KEPT, dark.value ? "dark" : "light");
}

effect(() => {
  document.documentElement.dataset["theme"] = dark.value ? "dark" : "light";
});
