// A button on each block of code that copies the block, without prompts and output of Python sessions.
document.addEventListener("DOMContentLoaded", () => {
  for (const block of document.querySelectorAll(".highlight")) {
    const pre = block.querySelector("pre");
    if (!pre || block.querySelector(".copy")) continue;
    const button = document.createElement("button");
    button.type = "button";
    button.className = "copy";
    button.textContent = "Copy";
    button.setAttribute("aria-label", "Copy this block");
    button.addEventListener("click", async () => {
      const lines = pre.textContent.replace(/\n$/, "").split("\n");
      const session = lines.some((line) => line.startsWith(">>> "));
      const typed = session ? lines.filter((line) => /^(>>>|\.\.\.)( |$)/.test(line)).map((line) => line.slice(4)) : lines;
      await navigator.clipboard.writeText(typed.join("\n") + "\n");
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = "Copy"; }, 1500);
    });
    block.append(button);
  }
});
