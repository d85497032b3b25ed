import preact from "@preact/preset-vite";
import { defineConfig } from "vite";

export default defineConfig({
  plugins: [preact()],
  build: {
    outDir: "../serving/bundle",
    emptyOutDir: true,
    // One answer for each: what is small is not drawn into the page, whose policy allows no inline code.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    reportCompressedSize: true,
    // The licences of what is built in lie beside it.
    license: { fileName: "licences.md" },
  },
  server: { proxy: { "/v1": process.env.ANABRANCH ?? "http://127.0.0.1:8000" } },
});
