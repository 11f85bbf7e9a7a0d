// This file draws what charts.rs describes.
"use strict";
(() => {
  const charts = JSON.parse(document.getElementById("charts").textContent);
  const theme = matchMedia("(prefers-color-scheme: dark)");
  const HEIGHT = 240;
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

  const figures = (value) => {
    const size = Math.abs(value);
    if (size >= 1e9) return `${trim(value / 1e9)} G`;
    if (size >= 1e6) return `${trim(value / 1e6)} M`;
    if (size >= 1e3) return `${trim(value / 1e3)} k`;
    return trim(value);
  };
  const trim = (value) => Number(value.toPrecision(3)).toLocaleString("en");
  const bytes = (value) => {
    const units = ["B", "KiB", "MiB", "GiB", "TiB"];
    const power = value < 1 ? 0 : Math.min(Math.floor(Math.log2(value) / 10), units.length - 1);
    return `${trim(value / 1024 ** power)} ${units[power]}`;
  };
  const micros = (value) =>
    value < 1e3 ? `${trim(value)} µs` : value < 1e6 ? `${trim(value / 1e3)} ms` : `${trim(value / 1e6)} s`;
  const seconds = (value) => {
    if (value < 120) return `${trim(value)} s`;
    return `${Math.floor(value / 60)}:${String(Math.round(value % 60)).padStart(2, "0")} min`;
  };
  // One in 1000 takes longer: the 99.9th percentile.
  const percentile = (oneIn) => `${Number((100 - 100 / oneIn).toPrecision(oneIn > 1e5 ? 8 : 6))} %`;

  const unitText = { per_second: (v) => `${figures(v)}/s`, micros, count: figures, bytes, cores: trim };
  const axisText = { seconds, one_in: percentile, rate: (v) => `${figures(v)}/s` };
  const axisName = { seconds: "time", one_in: "share", rate: "rate" };

  // Powers of ten for percentiles, as 1, 2, 5 steps would be odd shares.
  const tens = (u, axis, min, max) => {
    const splits = [];
    for (let power = 1; power <= max * 1.0001; power *= 10) if (power >= min * 0.9999) splits.push(power);
    return splits;
  };
  const onlyTens = (u, splits) => splits.map((v) => (v && Math.abs(Math.log10(v) % 1) < 1e-9 ? v : null));

  // Sizes in steps of powers of two, so that labels are whole.
  const binarySplits = (u, axis, min, max) => {
    const step = 2 ** Math.max(0, Math.ceil(Math.log2((max - min || 1) / 5)));
    const splits = [];
    for (let at = Math.ceil(min / step) * step; at <= max; at += step) splits.push(at);
    return splits;
  };

  const marks = (at) => ({
    hooks: {
      draw: (u) => {
        u.ctx.save();
        u.ctx.strokeStyle = colour("bad");
        u.ctx.setLineDash([2 * devicePixelRatio, 4 * devicePixelRatio]);
        for (const x of at) {
          const left = Math.round(u.valToPos(x, "x", true));
          u.ctx.beginPath();
          u.ctx.moveTo(left, u.bbox.top);
          u.ctx.lineTo(left, u.bbox.top + u.bbox.height);
          u.ctx.stroke();
        }
        u.ctx.restore();
      },
    },
  });

  // A value between two gaps makes no line: without a dot it would not be seen. What only the other run's moments left
  // open, which uPlot marks as undefined, is no gap.
  const lonely = (u, at, isShown) => {
    if (isShown) return null;
    const values = u.data[at];
    const has = (place, step) => {
      do place += step;
      while (place >= 0 && place < values.length && values[place] === undefined);
      return values[place] != null;
    };
    const found = [];
    values.forEach((value, place) => {
      if (value != null && !has(place, -1) && !has(place, 1)) found.push(place);
    });
    return found.length ? found : null;
  };

  // The baseline's lines stand behind those of the run, in the same order: their values share one place in the legend.
  const lines = (chart) => {
    const [run, baseline] = chart.runs.map((of) => of.series);
    const text = (value) => (value == null ? "" : unitText[chart.unit](value));
    const both = (value, before) => (text(before) ? `${text(value) || "–"} (${text(before)})` : text(value));
    const line = (series, isBaseline, place) => {
      const paint = () => colour(`c${series.colour % 8}`);
      const isFilled = run.length === 1 && !isBaseline && !chart.is_logarithmic;
      return {
        label: series.label,
        stroke: paint,
        width: isBaseline ? 1 : 1.75,
        dash: isBaseline ? [5, 4] : undefined,
        alpha: isBaseline ? 0.8 : 1,
        fill: isFilled ? () => `${paint()}1c` : undefined,
        points: { show: chart.runs[isBaseline ? 1 : 0].x.length < 3, size: 6, fill: paint, filter: lonely },
        value: (u, value, of, at) => both(value, baseline?.length && at != null ? u.data[run.length + 1 + place][at] : null),
      };
    };
    return [
      ...run.map((series, place) => line(series, false, place)),
      ...(baseline ?? []).map((series, place) => line(series, true, place)),
    ];
  };

  const logRange = (u, min, max) => [
    10 ** Math.floor(Math.log10(min || 1) + 1e-9),
    Math.max(10 ** Math.ceil(Math.log10(max || 10) - 1e-9), 10 ** (Math.floor(Math.log10(min || 1)) + 1)),
  ];
  const fromZero = (u, min, max) => (max > 0 ? uPlot.rangeNum(0, max, 0.1, true) : [0, 1]);
  const xRange = (chart) => (u, min, max) => {
    if (chart.axis === "one_in") return [1, Math.max(10, max)];
    if (min === max) return [min - 1, max + 1];
    return [chart.axis === "seconds" ? Math.min(0, min) : min, max];
  };

  const options = (chart, width) => {
    const axis = {
      stroke: () => colour("soft"),
      font: "12px system-ui, sans-serif",
      grid: { stroke: () => colour("grid"), width: 1 },
      ticks: { stroke: () => colour("grid"), width: 1, size: 5 },
    };
    const onLog = chart.is_logarithmic
      ? { filter: onlyTens, grid: { ...axis.grid, filter: onlyTens }, ticks: { ...axis.ticks, filter: onlyTens } }
      : {};
    const inBytes = chart.unit === "bytes" ? { splits: binarySplits } : {};
    const shares = chart.axis === "one_in" ? { splits: tens, filter: (u, splits) => splits } : {};
    return {
      width,
      height: HEIGHT,
      plugins: [marks(chart.marks)],
      cursor: {
        y: false,
        drag: { x: true, y: false },
        sync: chart.axis === "seconds" ? { key: "time", setSeries: false } : undefined,
        points: { size: 7 },
      },
      scales: {
        x: { time: false, range: xRange(chart), distr: chart.axis === "one_in" ? 3 : 1, log: 10 },
        y: { distr: chart.is_logarithmic ? 3 : 1, log: 10, range: chart.is_logarithmic ? logRange : fromZero },
      },
      series: [
        { label: axisName[chart.axis], value: (u, v) => (v == null ? "" : axisText[chart.axis](v)) },
        ...lines(chart),
      ],
      axes: [
        { ...axis, ...shares, size: 36, values: (u, splits) => splits.map((v) => (v == null ? "" : axisText[chart.axis](v))), space: 70 },
        { ...axis, ...onLog, ...inBytes, size: 68, values: (u, splits) => splits.map((v) => (v == null ? "" : unitText[chart.unit](v))) },
      ],
      legend: { live: true },
    };
  };

  const drawn = charts.map((chart) => {
    const place = document.getElementById(`chart-${chart.id}`);
    const tables = chart.runs.filter((run) => run.x.length).map((run) => [run.x, ...run.series.map((s) => s.values)]);
    const data = tables.length > 1 ? uPlot.join(tables) : tables[0];
    const used = { ...chart, runs: chart.runs.map((run) => (run.x.length ? run : { x: [], series: [] })) };
    const plot = new uPlot(options(used, place.clientWidth), data, place);
    const ofRun = used.runs[0].series.length;
    place.querySelectorAll(".u-legend .u-series").forEach((row, n) => (row.hidden = ofRun > 0 && n > ofRun));
    return { place, plot };
  });

  const fit = new ResizeObserver((entries) => {
    for (const { target, contentRect } of entries) {
      const { plot } = drawn.find(({ place }) => place === target);
      const width = Math.floor(contentRect.width);
      if (width > 0 && width !== plot.width) plot.setSize({ width, height: HEIGHT });
    }
  });
  drawn.forEach(({ place }) => fit.observe(place));
  theme.addEventListener("change", () => drawn.forEach(({ plot }) => plot.redraw(false)));
})();
