// The publications that are kept, for the views that look back.
import { signal } from "@preact/signals";
import { ask, words } from "./api";
import type { PublicationList } from "./bodies";

export const history = signal<PublicationList | null>(null);
export const problem = signal("");

export async function load(most: number): Promise<void> {
  try {
    history.value = await ask<PublicationList>("GET", `/v1/publications?limit=${most}`);
    problem.value = "";
  } catch (error) {
    problem.value = words(error);
  }
}
