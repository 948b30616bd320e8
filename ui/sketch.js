// Runs once, as the body of a plain function with element, trigger, props and watch.
const canvas = element.querySelector("canvas"), pen = canvas.getContext("2d");
const hint = element.querySelector(".sketch-hint");
const undoButton = element.querySelector("[data-tool=undo]"), clearButton = element.querySelector("[data-tool=clear]");
const WIDTH = 16; // of the pen, on 280 pixels: what remains on 28 is between one and two pixels wide
const strokes = [];
let stroke = null, pointer = null;

const spot = (event) => {
  const box = canvas.getBoundingClientRect();
  return [((event.clientX - box.left) * canvas.width) / box.width, ((event.clientY - box.top) * canvas.height) / box.height];
};

const trace = ([first, ...rest]) => {
  pen.beginPath();
  pen.moveTo(...first);
  for (const point of rest.length ? rest : [first]) pen.lineTo(...point); // a line to itself is a round dot
  pen.stroke();
};

const paint = () => {
  pen.fillStyle = "#fff";
  pen.fillRect(0, 0, canvas.width, canvas.height);
  pen.strokeStyle = "#000";
  pen.lineWidth = WIDTH;
  pen.lineCap = pen.lineJoin = "round";
  strokes.forEach(trace);
  hint.hidden = strokes.length > 0;
  undoButton.disabled = clearButton.disabled = strokes.length === 0;
};

const commit = () => {
  props.value = strokes.length ? canvas.toDataURL("image/png") : "";
  if (strokes.length) trigger("drawn"); // not `change`: setting the value fires that one by itself, on every visit
};

const begin = (event) => {
  if (stroke || event.button !== 0) return; // a second finger or the right button draws nothing
  canvas.setPointerCapture(event.pointerId);
  pointer = event.pointerId;
  stroke = [spot(event)];
  strokes.push(stroke);
  paint();
};

const go = (event) => {
  if (!stroke || event.pointerId !== pointer) return;
  const events = event.getCoalescedEvents?.() ?? [];
  for (const part of events.length ? events : [event]) stroke.push(spot(part));
  paint();
};

const end = (event) => {
  if (!stroke || event.pointerId !== pointer) return;
  stroke = pointer = null;
  commit();
};

const undo = () => {
  if (stroke || !strokes.length) return;
  strokes.pop();
  paint();
  commit();
};

const clear = () => {
  if (stroke || !strokes.length) return;
  strokes.length = 0;
  paint();
  commit();
  canvas.focus({ preventScroll: true }); // the button is disabled now, and the focus would be lost
};

canvas.addEventListener("pointerdown", begin);
canvas.addEventListener("pointermove", go);
canvas.addEventListener("pointerup", end);
canvas.addEventListener("pointercancel", end);
canvas.addEventListener("keydown", (event) => {
  if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "z") {
    event.preventDefault();
    undo();
  }
});
undoButton.addEventListener("click", undo);
clearButton.addEventListener("click", clear);
watch("value", () => {
  if (props.value || stroke) return; // the server can empty the pad, nothing else
  strokes.length = 0;
  paint();
});
paint();
