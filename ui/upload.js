// An image pasted anywhere on the page is an upload: gr.Image alone takes one only by its clipboard button (6.31).
(() => {
  const tab = () => document.querySelector("#upload-tab-button");
  const input = () => document.querySelector("#upload input[type=file]");

  const whenThere = (find, seconds) =>
    new Promise((resolve) => {
      const end = performance.now() + 1000 * seconds;
      const look = () => (find() || performance.now() > end ? resolve(find()) : requestAnimationFrame(look));
      look();
    });

  document.addEventListener("paste", async (event) => {
    const file = [...(event.clipboardData?.files ?? [])].find((file) => file.type.startsWith("image/"));
    if (!file) return;
    event.preventDefault();
    tab()?.click(); // a tab that was never opened has no input yet
    const target = await whenThere(input, 2);
    if (!target) return;
    const files = new DataTransfer();
    files.items.add(file);
    target.files = files.files;
    target.dispatchEvent(new Event("change", { bubbles: true }));
  });
})();
