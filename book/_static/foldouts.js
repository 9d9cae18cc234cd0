// What scrolls sideways takes the keyboard's focus. The theme looks for it when a page loads or changes its size, but
// what lies in a closed fold-out has no size yet: so it looks again when one is opened.
document.addEventListener("toggle", () => window.dispatchEvent(new Event("resize")), true);
