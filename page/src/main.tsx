import "./style.css";
import { render } from "preact";
import { App } from "./app";
import { look } from "./live";

render(<App />, document.getElementById("page")!);
void look();
