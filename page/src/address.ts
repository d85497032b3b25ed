// Which view is shown: the part of the address behind #, so that every view and every decision has a link.
import { signal } from "@preact/signals";

export interface Place {
  view: string;
  /** What of the view, such as a decision's id. */
  what: string;
}

const here = (): Place => {
  const [view = "", ...rest] = location.hash.replace(/^#\/?/, "").split("/");
  try {
    return { view, what: decodeURIComponent(rest.join("/")) };
  } catch {
    return { view, what: "" };
  }
};

export const place = signal<Place>(here());
addEventListener("hashchange", () => (place.value = here()));

export const to = (view: string, what = ""): string => `#/${view}${what ? `/${encodeURIComponent(what)}` : ""}`;
