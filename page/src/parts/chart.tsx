import { useEffect, useRef } from "preact/hooks";
import uPlot from "uplot";
import "uplot/dist/uPlot.min.css";
import { dark } from "../theme";

export interface Line {
  label: string;
  hue: number;
  values: (number | null)[];
}

interface Props {
  /** What is shown, for who does not see it. */
  words: string;
  x: number[];
  xLabel: string;
  lines: Line[];
  height?: number;
  isTime?: boolean;
}

/** Lines over one axis. */
export default function Chart({ words, x, xLabel, lines, height = 160, isTime = false }: Props) {
  const place = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot | null>(null);
  const shape = `${lines.map((line) => line.label).join("\n")} ${dark.value} ${height}`;
  useEffect(() => {
    const own = place.current!;
    const ink = getComputedStyle(document.documentElement).getPropertyValue("--quiet");
    const axis = { stroke: ink, grid: { stroke: ink, width: 0.2 }, ticks: { show: false }, font: "12px system-ui" };
    plot.current = new uPlot(
      {
        width: own.clientWidth || 300,
        height,
        scales: { x: { time: isTime } },
        axes: [
          { ...axis, label: xLabel, labelSize: 16, labelFont: "12px system-ui", size: 30 },
          { ...axis, size: 46 },
        ],
        legend: { show: lines.length > 1 },
        cursor: { y: false },
        series: [
          { label: xLabel },
          ...lines.map((line) => ({
            label: line.label,
            stroke: `hsl(${line.hue} 65% ${dark.value ? 62 : 40}%)`,
            width: 2,
            spanGaps: true,
          })),
        ],
      },
      [x, ...lines.map((line) => line.values)],
      own,
    );
    const fit = new ResizeObserver(() => plot.current?.setSize({ width: own.clientWidth, height }));
    fit.observe(own);
    return () => {
      fit.disconnect();
      plot.current?.destroy();
      plot.current = null;
    };
  }, [shape]);
  useEffect(() => plot.current?.setData([x, ...lines.map((line) => line.values)]), [x, lines]);
  return <div ref={place} class="chart" role="img" aria-label={words} />;
}
