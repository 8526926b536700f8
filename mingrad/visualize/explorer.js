/* explorer.js: what the explorer's page (explorer.py) does. Before it in the page stand `rows`, of each node its value and its
 * partials as functions of all values, and `choices`, which form of a formula holds; in #data what else Python knows. No text
 * from there becomes markup: it is put in as text. */

const data = JSON.parse(document.getElementById("data").textContent);
const nodes = data.nodes, passes = data.passes, root = nodes.length - 1;
const number = (x) => Number(x); // JSON has inf and nan as texts
const engine = { values: nodes.map((n) => number(n.value)), partials: nodes.map((n) => n.partials.map(number)) };
const $ = (id) => document.getElementById(id);

let values = engine.values.slice(), partials = engine.partials, changed = false;
let position = 0; // how many passes have been made
let picked = null; // the node whose numbers are shown
let found = [], turn = -1; // what the search has found, and which of it is shown
let timer = null;

// -- text ------------------------------------------------------------------------------------------

/* A double as Python's repr() writes it. */
function repr(x) {
    if (Number.isNaN(x)) return "nan";
    if (!Number.isFinite(x)) return x > 0 ? "inf" : "-inf";
    if (Object.is(x, -0)) return "-0.0";
    const [digits, exponent] = x.toExponential().split("e");
    if (x !== 0 && (exponent < -4 || exponent >= 16)) {
        return `${digits}e${exponent[0]}${exponent.slice(1).padStart(2, "0")}`;
    }
    const text = String(x);
    return text.includes(".") ? text : text + ".0";
}

/* The same for a box, which has little room. */
function short(x) {
    const text = repr(x);
    return text.length <= 9 ? text : repr(Number(x.toPrecision(5)));
}

const signed = (x) => (repr(x)[0] === "-" ? `(${repr(x)})` : repr(x));

/* A formula with names or numbers for its nodes; a negative number in brackets unless it begins something. */
function filled(formula, text) {
    return formula.replace(/\u0001(\[?)(\d+)\u0002/g, (whole, list, k, at) => {
        if (list) return `[${nodes[k].operands.map(text).join(", ")}]`;
        const own = text(+k), before = formula.slice(0, at);
        const begins = /(^|[([]|, )$/.test(before) && !formula.startsWith("**", at + whole.length);
        return own[0] === "-" && !begins ? `(${own})` : own;
    });
}
const named = (formula) => filled(formula, (k) => nodes[k].name);
const numbered = (formula) => filled(formula, (k) => repr(values[k]));
const equation = (...parts) => parts.filter((part, k) => part !== parts[k - 1]);
const defined = (k) => [nodes[k].name, ...(nodes[k].formula ? [named(nodes[k].formula)] : [])].join(" = ");
const slope = (of, by) => `d${nodes[of].name}/d${nodes[by].name}`;

function element(parent, name, attributes = {}, text = null) {
    const made = document.createElementNS(parent.namespaceURI, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== null) made.textContent = text;
    return parent.appendChild(made);
}

// -- numbers ---------------------------------------------------------------------------------------

function compute() {
    if (!changed) {
        values = engine.values.slice();
        partials = engine.partials;
        return;
    }
    partials = [];
    rows.forEach((row, k) => {
        if (row) values[k] = row[0](values);
        partials.push(row ? row[1](values) : []);
    });
}

/* The backward pass as far as `position`: what each node has received, and the additions of the last step. */
function backward() {
    const totals = nodes.map(() => 0), reached = nodes.map(() => false);
    let additions = [];
    totals[root] = 1;
    reached[root] = true;
    for (const pass of passes.slice(0, position)) {
        const adjoint = totals[pass.user];
        additions = pass.places.map((place, k) => {
            const node = nodes[pass.user].operands[place], before = totals[node];
            const partial = pass.given ? null : partials[pass.user][place];
            const product = pass.given ? number(pass.given[k]) : adjoint * partial;
            totals[node] += product;
            reached[node] = true;
            return { node, place, adjoint, partial, product, before, after: totals[node] };
        });
    }
    return { totals, reached, additions: position ? additions : [] };
}

/* A node's gradient as far as the pass has come. */
function gradientOf(k, { totals, reached }, written = repr) {
    return reached[k] ? written(totals[k]) : nodes[k].graded ? "\u2013" : "constant";
}

/* The class of a shade: how large a gradient is beside the largest. */
function shade(gradient, largest) {
    if (!Number.isFinite(gradient)) return "gx";
    if (gradient === 0) return "g0";
    const part = Math.abs(gradient) / largest;
    return (data.limits.find(([, limit]) => part < limit) || ["g4"])[0];
}

// -- the graph -------------------------------------------------------------------------------------

const svg = $("graph"), drawing = element(svg, "g");
const wires = data.edges.map((edge) => {
    const path = edge.route.map((point, k) => (k ? "L" : "M") + point.join(" ")).join("");
    const [x1, y1] = edge.route.at(-2), [x, y] = edge.route.at(-1), turned = (Math.atan2(y - y1, x - x1) * 180) / Math.PI;
    const wire = element(drawing, "g", { class: "wire" });
    element(wire, "path", { class: "line", d: path });
    element(wire, "path", { class: "tip", d: "M1 0L-8 -4V4Z", transform: `translate(${x} ${y}) rotate(${turned})` });
    return wire;
});
const boxes = nodes.map((node, k) => {
    const [x, y, width, height] = node.box;
    const kind = !node.leaf ? "op" : node.graded ? "leaf" : "constant";
    const group = element(drawing, "g", { class: `box ${kind}`, transform: `translate(${x} ${y})`, "data-node": k });
    element(group, "rect", { class: "frame", width, height, rx: 7 });
    element(group, "rect", { class: "bar", y: 7, width: 4, height: height - 14 });
    const line = (n, mark) => {
        const text = element(group, "text", { x: 12, y: 5 + 18 * n + (n > 1 ? 2 : 0) });
        if (mark) element(text, "tspan", { class: "mark" }, mark);
        return element(text, "tspan", mark ? {} : { class: "head" });
    };
    line(1, "").textContent = node.head;
    const box = { group, kind, value: line(2, "value "), gradient: line(3, "grad  "), tip: element(group, "title") };
    group.addEventListener("click", () => moved || pick(k));
    return box;
});
const tags = element(drawing, "g");

function paint(state) {
    const { totals, reached, additions } = state, pass = passes[position - 1];
    const givers = pass ? pass.results || [pass.user] : [root];
    const takers = new Map(), largest = Math.max(...totals.map(Math.abs).filter(Number.isFinite));
    for (const { node, product } of additions) takers.set(node, (takers.get(node) || []).concat(product));
    boxes.forEach(({ group, kind, value, gradient, tip }, k) => {
        const states = { giver: givers.includes(k), taker: takers.has(k), waiting: nodes[k].graded && !reached[k] };
        states.found = found.includes(k);
        states.picked = k === picked;
        const on = Object.keys(states).filter((state) => states[state]);
        group.setAttribute("class", ["box", kind, reached[k] ? shade(totals[k], largest) : "g0", ...on].join(" "));
        value.textContent = short(values[k]);
        gradient.textContent = gradientOf(k, state, short);
        tip.textContent = `${nodes[k].label || nodes[k].name}: value ${repr(values[k])}, gradient ${gradientOf(k, state)}`;
    });
    tags.replaceChildren();
    data.edges.forEach((edge, k) => {
        const active = pass !== undefined && givers.includes(edge.to) && takers.has(edge.from);
        wires[k].setAttribute("class", active ? "wire active" : "wire");
        if (!active) return;
        const half = Math.floor(edge.route.length / 2), [a, b] = [edge.route[half - 1], edge.route[half]];
        const text = takers.get(edge.from).map((x) => (repr(x)[0] === "-" ? "" : "+") + short(x)).join(" ");
        element(tags, "text", { class: "tag", x: (a[0] + b[0]) / 2, y: (a[1] + b[1]) / 2 - 5 }, text);
    });
    svg.classList.toggle("searching", $("query").value !== "");
}

// -- where the graph is seen from ------------------------------------------------------------------

const view = { x: 0, y: 0, scale: 1 };
let own = false; // has a person chosen what is seen?

function look() {
    drawing.setAttribute("transform", `translate(${view.x} ${view.y}) scale(${view.scale})`);
    $("zoom").textContent = `${Math.round(100 * view.scale)} %`;
}

function fit() {
    const { width, height } = svg.getBoundingClientRect(), [w, h] = data.size;
    view.scale = Math.min(1.5, (width - 16) / w, Math.max(60, height - 44) / h);
    view.x = (width - w * view.scale) / 2;
    view.y = (Math.max(60, height - 28) - h * view.scale) / 2;
    own = false;
    look();
}

function zoom(factor, x, y) {
    const { width, height } = svg.getBoundingClientRect(), scale = Math.min(4, Math.max(0.05, view.scale * factor));
    x ??= width / 2;
    y ??= height / 2;
    view.x = x - ((x - view.x) * scale) / view.scale;
    view.y = y - ((y - view.y) * scale) / view.scale;
    view.scale = scale;
    own = true;
    look();
}

function pan(x, y) {
    view.x += x;
    view.y += y;
    own = true;
    look();
}

/* Moves the graph if one of these nodes is out of sight; the first, if there is no room for all. */
function show(some, always = false) {
    const { width, height } = svg.getBoundingClientRect();
    if (always && view.scale < 0.6) view.scale = 0.8;
    const all = some.map((k) => nodes[k].box), low = (at) => Math.min(...all.map((box) => box[at]));
    const high = (at) => Math.max(...all.map((box) => box[at] + box[at + 2]));
    const left = view.x + low(0) * view.scale, right = view.x + high(0) * view.scale;
    const top = view.y + low(1) * view.scale, bottom = view.y + high(1) * view.scale;
    if (some.length > 1 && (right - left > width || bottom - top > height)) return show(some.slice(0, 1), always);
    if (!always && left >= 0 && top >= 0 && right <= width && bottom <= height) return;
    view.x += width / 2 - (left + right) / 2;
    view.y += height / 2 - (top + bottom) / 2;
    look();
}

const pointers = new Map();
let moved = false; // has the pointer been moved since it went down? Then its click picks nothing
svg.addEventListener("pointerdown", (event) => {
    pointers.set(event.pointerId, [event.clientX, event.clientY]);
    moved = false;
});
svg.addEventListener("pointermove", (event) => {
    const before = pointers.get(event.pointerId);
    if (!before) return;
    const now = [event.clientX, event.clientY];
    const [other] = [...pointers].filter(([id]) => id !== event.pointerId).map(([, at]) => at);
    if (!moved && !other && Math.hypot(now[0] - before[0], now[1] - before[1]) < 4) return;
    if (!moved) svg.setPointerCapture(event.pointerId);
    moved = true;
    pointers.set(event.pointerId, now);
    if (other) {
        const { left, top } = svg.getBoundingClientRect(), away = (at) => Math.hypot(at[0] - other[0], at[1] - other[1]);
        zoom(away(now) / Math.max(1, away(before)), (now[0] + other[0]) / 2 - left, (now[1] + other[1]) / 2 - top);
    }
    pan((now[0] - before[0]) / (other ? 2 : 1), (now[1] - before[1]) / (other ? 2 : 1));
});
for (const end of ["pointerup", "pointercancel"]) svg.addEventListener(end, (event) => pointers.delete(event.pointerId));
svg.addEventListener("pointerleave", (event) => svg.hasPointerCapture(event.pointerId) || pointers.delete(event.pointerId));
svg.addEventListener("wheel", (event) => {
    event.preventDefault();
    const { left, top } = svg.getBoundingClientRect(), lines = event.deltaMode ? 16 : 1;
    if (event.ctrlKey || event.metaKey) zoom(Math.exp(-0.004 * lines * event.deltaY), event.clientX - left, event.clientY - top);
    else if (event.shiftKey && !event.deltaX) pan(-lines * event.deltaY, 0);
    else pan(-lines * event.deltaX, -lines * event.deltaY);
}, { passive: false });
new ResizeObserver(() => own || fit()).observe(svg);

// -- the panels ------------------------------------------------------------------------------------

/* A line of an equation, which is broken before equals signs first. */
function entry(list, term, parts, of) {
    element(list, "dt", {}, term);
    const line = element(list, "dd", { class: "formula", "data-of": of });
    parts.forEach((part, k) => {
        if (k) line.append(" ");
        element(line, "span", { class: k === parts.length - 1 ? "part result" : "part" }, k ? `= ${part}` : part);
    });
}

function tell({ totals, additions }) {
    const pass = passes[position - 1], name = nodes[root].name, list = $("contributions");
    list.replaceChildren();
    $("heading").textContent = pass ? (pass.results || [pass.user]).map(defined).join(", ") : `d${name}/d${name} = 1.0`;
    const where = `Step ${position} of ${passes.length}${position && position === passes.length ? ", the last" : ""}`;
    $("position").setAttribute("aria-valuetext", where);
    if (!pass) {
        $("said").textContent = `${where}. Every node has its value. The backward pass starts at ${name} with gradient 1.0.`;
        return;
    }
    const user = nodes[pass.user], adjoint = totals[pass.user];
    const receive = additions.slice(0, 4).map((a) => `${nodes[a.node].name} receives ${short(a.product)}`).join(", ");
    const rest = additions.length > 4 ? `, and ${additions.length - 4} more.` : ".";
    $("said").textContent = `${where}. ${user.name} has its adjoint, ${short(adjoint)}. ${receive}${rest}`;
    const forms = user.slopes.length && choices[pass.user] ? choices[pass.user](values) : user.operands.map(() => 0);
    for (const { node, place, partial, product, before, after } of additions) {
        const card = element(list, "article", { class: "card", "data-node": node, "data-place": place });
        const twice = user.operands.filter((k) => k === node).length > 1;
        element(card, "h3", {}, `to ${nodes[node].name}${twice ? ` (operand ${place + 1})` : ""}`);
        const lines = element(card, "dl");
        if (pass.given) {
            entry(lines, "product", [`the rule of ${user.op}`, repr(product)], "product");
        } else {
            const form = user.slopes[place][forms[place]];
            const written = Number.isNaN(Number(form)) ? [named(form), numbered(form)] : [];
            entry(lines, "adjoint", [slope(root, pass.user), repr(adjoint)], "adjoint");
            entry(lines, "local derivative", equation(slope(pass.user, node), ...written, repr(partial)), "partial");
            entry(lines, "product", [`${repr(adjoint)} * ${signed(partial)}`, repr(product)], "product");
        }
        entry(lines, "gradient", [`${repr(before)} + ${signed(product)}`, repr(after)], "after");
    }
}

function pick(k) {
    picked = k;
    const step = passes.findIndex((pass) => (pass.results || [pass.user]).includes(k));
    if (step >= 0) go(step + 1);
    else update();
    controls.find((control) => control.k === k)?.exact.scrollIntoView({ block: "nearest" });
}

function tellPicked(state) {
    const panel = $("picked");
    panel.hidden = picked === null;
    panel.replaceChildren();
    if (picked === null) return;
    const node = nodes[picked], written = node.formula ? [named(node.formula), numbered(node.formula)] : [];
    element(panel, "h2", {}, node.label || node.name);
    const list = element(panel, "dl");
    if (node.op) entry(list, "operation", [node.op], "op");
    entry(list, "value", equation(node.name, ...written, repr(values[picked])), "value");
    entry(list, "gradient", [gradientOf(picked, state)], "gradient");
}

// -- leaves ----------------------------------------------------------------------------------------

const slided = (slider) => Number(slider.valueAsNumber.toPrecision(6));
const leaves = nodes.map((node, k) => k).filter((k) => nodes[k].leaf);
const controls = leaves.map((k) => {
    const row = element($("leaves").querySelector("ul"), "li", { "data-node": k });
    const name = nodes[k].name, start = engine.values[k], reach = Math.max(1, 2 * Math.abs(start));
    element(row, "span", { class: "formula name" }, name);
    const told = element(row, "span", { class: "told" }, "gradient "), gradient = element(told, "span", { class: "number" });
    const exact = element(row, "input", { type: "number", step: "any", "aria-label": `value of ${name}` });
    const slider = element(row, "input", { type: "range", step: "any", "aria-label": `slider of ${name}` });
    if (Number.isFinite(start)) {
        slider.min = start - reach;
        slider.max = start + reach;
    }
    exact.disabled = slider.disabled = rows === null;
    exact.addEventListener("input", () => exact.value !== "" && set(k, exact.valueAsNumber));
    slider.addEventListener("input", () => set(k, slided(slider)));
    return { k, exact, slider, gradient };
});

function set(k, value) {
    values[k] = value;
    changed = true;
    compute();
    update();
}

function tellLeaves(state) {
    for (const { k, exact, slider, gradient } of controls) {
        const x = values[k]; // what says so already is left alone: somebody may be at it
        if (exact.valueAsNumber !== x) exact.value = Number.isFinite(x) ? x : "";
        if (slided(slider) !== x) slider.value = x;
        slider.setAttribute("aria-valuetext", repr(x));
        gradient.textContent = gradientOf(k, state);
    }
    $("reset").disabled = !changed;
    const note = $("note");
    note.classList.toggle("changed", changed);
    note.textContent = rows === null
        ? "This graph has a custom function, whose code is Python\u2019s: leaves cannot be moved here."
        : changed
          ? "Computed by this page: the last bits may differ from the engine\u2019s."
          : "The engine\u2019s numbers. Move a leaf, and all values and gradients follow.";
}

// -- the whole -------------------------------------------------------------------------------------

function update() {
    const pass = backward();
    paint(pass);
    tell(pass);
    tellPicked(pass);
    tellLeaves(pass);
    $("position").value = position;
    $("start").disabled = $("back").disabled = position === 0;
    $("next").disabled = $("end").disabled = position === passes.length;
    $("play").disabled = passes.length === 0;
}

function go(to) {
    position = Math.min(passes.length, Math.max(0, to));
    update();
    const pass = passes[position - 1];
    show(pass ? [pass.user, ...pass.places.map((place) => nodes[pass.user].operands[place])] : [root]);
}

function stop() {
    clearInterval(timer);
    timer = null;
    $("play").textContent = "Play";
}

function play() {
    if (timer !== null) return stop();
    if (position === passes.length) go(0);
    $("play").textContent = "Pause";
    timer = setInterval(() => (position < passes.length ? go(position + 1) : stop()), 1200);
}

function search() {
    const wanted = $("query").value.toLowerCase();
    const texts = (node) => [node.label, node.name, node.op, node.word].map((text) => text.toLowerCase());
    found = wanted === "" ? [] : nodes.map((node, k) => k).filter((k) => texts(nodes[k]).some((text) => text.includes(wanted)));
    turn = -1;
    $("found").textContent = wanted === "" ? "" : `${found.length} found`;
    update();
}

function findNext(by) {
    if (!found.length) return;
    turn = (turn + by + found.length + (turn < 0 && by < 0 ? 1 : 0)) % found.length;
    $("found").textContent = `${turn + 1} of ${found.length}`;
    picked = found[turn];
    update();
    show([picked], true);
}

/* At first all of the graph; but where that would be too small to read, its end. */
function begin() {
    fit();
    if (view.scale > 0.45) return;
    show([root, ...nodes[root].operands], true);
    own = true;
}

const themes = ["system", "light", "dark"];
function theme() {
    const next = themes[(themes.indexOf(document.documentElement.dataset.theme || "system") + 1) % themes.length];
    document.documentElement.dataset.theme = next;
    $("theme").textContent = `Theme: ${next}`;
}

const buttons = {
    start: () => go(0), back: () => go(position - 1), play, next: () => go(position + 1), end: () => go(passes.length),
    in: () => zoom(1.25), out: () => zoom(0.8), fit, theme, help: () => $("manual").showModal(),
    reset: () => { changed = false; compute(); update(); },
};
for (const [id, action] of Object.entries(buttons)) {
    $(id).addEventListener("click", () => {
        if (id !== "play") stop();
        action();
    });
}
$("position").max = passes.length;
$("position").addEventListener("input", () => { stop(); go($("position").valueAsNumber); });
$("query").addEventListener("input", search);
$("search").addEventListener("submit", (event) => event.preventDefault());
$("query").addEventListener("keydown", (event) => {
    if (event.key === "Enter") findNext(event.shiftKey ? -1 : 1);
    if (event.key === "Escape") {
        $("query").value = "";
        search();
        svg.focus();
    }
});

const keys = {
    ArrowRight: buttons.next, ArrowLeft: buttons.back, Home: buttons.start, End: buttons.end,
    "+": buttons.in, "=": buttons.in, "-": buttons.out, 0: fit, "/": () => $("query").focus(), "?": buttons.help,
};
const shifted = { ArrowLeft: [60, 0], ArrowRight: [-60, 0], ArrowUp: [0, 60], ArrowDown: [0, -60] };
document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.tagName === "INPUT" || $("manual").open) return;
    if (event.key === " " && event.target.tagName !== "BUTTON") play();
    else if (event.shiftKey && shifted[event.key]) pan(...shifted[event.key]);
    else if (Object.hasOwn(keys, event.key)) {
        if (event.key.length > 1) stop();
        keys[event.key]();
    } else return;
    event.preventDefault();
});

for (const [name, , , legend] of data.shades) {
    const item = element($("legend"), "li");
    element(item, "i").style.background = `var(--${name})`;
    item.append(legend);
}
update();
begin();
