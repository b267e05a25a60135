// A run's losses over its steps, as SVG.

const SVG = "http://www.w3.org/2000/svg";
const [WIDTH, HEIGHT, LEFT, BOTTOM, TOP] = [700, 300, 52, 34, 14];

function element(name, attributes, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

/** Draws `{train: [[step, loss]], val: [[step, loss]]}` into `place`; nothing where there is no curve. */
export function drawCurves(place, curves) {
  const all = [...curves.train, ...curves.val];
  if (all.length < 2) return;
  const steps = all.map(([step]) => step);
  const losses = all.map(([, loss]) => loss).sort((a, b) => a - b);
  const [first, last] = [Math.min(...steps), Math.max(...steps)];
  // The first steps are far above the rest, and what matters is below.
  const [low, high] = [losses[0], losses[Math.floor(0.97 * (losses.length - 1))]];
  const x = (step) => LEFT + (step - first) / (last - first || 1) * (WIDTH - LEFT - 10);
  const y = (loss) => TOP + (Math.min(1.05, (high - loss) / (high - low || 1))) * (HEIGHT - TOP - BOTTOM);
  const end = curves.val.at(-1) ?? curves.train.at(-1);
  const svg = element("svg", {
    viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img",
    "aria-label": `Loss from step ${first} to ${last}, ${end[1].toFixed(3)} at the end`,
  });
  svg.append(element("path", { class: "axis", d: `M${LEFT} ${TOP}V${HEIGHT - BOTTOM}H${WIDTH - 10}` }));
  for (const part of [0, 0.25, 0.5, 0.75, 1]) {
    const loss = low + part * (high - low);
    svg.append(element("text", { x: LEFT - 6, y: y(loss) + 4, "text-anchor": "end" }, loss.toFixed(2)));
    const step = Math.round(first + part * (last - first));
    svg.append(element("text", { x: x(step), y: HEIGHT - BOTTOM + 18, "text-anchor": part ? (part === 1 ? "end" : "middle") : "start" },
      step.toLocaleString("en")));
  }
  const path = (points) => points.map(([step, loss], i) => `${i ? "L" : "M"}${x(step).toFixed(1)} ${Math.max(TOP, y(loss)).toFixed(1)}`).join("");
  svg.append(element("path", { class: "train", d: path(curves.train) }));
  svg.append(element("path", { class: "val", d: path(curves.val) }));
  for (const [step, loss] of curves.val) {
    const dot = element("circle", { class: "val", cx: x(step), cy: Math.max(TOP, y(loss)), r: 3.5 });
    dot.append(element("title", {}, `step ${step}: ${loss.toFixed(4)}`));
    svg.append(dot);
  }
  svg.append(element("text", { x: WIDTH - 10, y: TOP + 8, "text-anchor": "end" }, "loss, nats a token: thin line training, dots validation"));
  place.append(svg);
}
