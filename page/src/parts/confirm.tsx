import { useEffect, useRef } from "preact/hooks";

interface Props {
  title: string;
  words: string;
  yes: string;
  onYes: () => void;
  onNo: () => void;
}

/** Asks before what can't be taken back. */
export function Confirm({ title, words, yes, onYes, onNo }: Props) {
  const dialog = useRef<HTMLDialogElement>(null);
  useEffect(() => dialog.current?.showModal(), []);
  return (
    <dialog ref={dialog} aria-labelledby="confirm-title" onClose={onNo}>
      <h2 id="confirm-title">{title}</h2>
      <p>{words}</p>
      <div class="row">
        <button onClick={onNo}>Cancel</button>
        <button class="danger" onClick={onYes}>
          {yes}
        </button>
      </div>
    </dialog>
  );
}
