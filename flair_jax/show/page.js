// Shows the maps of the word that is pointed at, moved to with the keyboard, or pinned by a click or a tap; the server is not asked.
() => {
  let pointed = null;

  const wordAt = (target) => (target instanceof Element ? target.closest(".flair .word") : null);

  function wordOf(card) {
    const focused = card.querySelector(".word:focus-visible");
    const pinned = card.querySelector('.word[aria-pressed="true"]');
    return [pointed, focused, pinned].find((word) => word && card.contains(word)) ?? null;
  }

  function update() {
    for (const card of document.querySelectorAll(".flair .sentence")) {
      const word = wordOf(card);
      if (card.shownWord === word) continue;
      card.shownWord = word;
      for (const other of card.querySelectorAll(".word")) other.classList.toggle("shown", other === word);
      const sentence = card.querySelector(".words").textContent;
      const whose = word ? `the word: ${word.textContent}` : `the sentence: ${sentence}`;
      const text = card.closest(".flair").querySelectorAll(".text")[(word ?? card).dataset.text].dataset;
      for (const map of card.querySelectorAll("img.map")) {
        map.src = text[map.dataset.kind];
        map.alt = `${map.closest("figure").querySelector("figcaption").textContent} for ${whose}`;
      }
      card.querySelector(".whose").textContent = word
        ? `Maps of “${word.textContent}” alone: text-conditioned ${text.score}, empty slot ${text.empty}`
        : "Maps of the whole sentence";
    }
  }

  function moveTo(word) {
    for (const other of word.parentElement.querySelectorAll(".word")) other.tabIndex = other === word ? 0 : -1;
  }

  document.addEventListener("pointerover", (event) => {
    pointed = event.pointerType === "mouse" ? wordAt(event.target) : null;
    update();
  });
  document.documentElement.addEventListener("pointerleave", () => { pointed = null; update(); });

  document.addEventListener("click", (event) => {
    const word = wordAt(event.target);
    if (!word) return;
    const pin = word.getAttribute("aria-pressed") !== "true";
    for (const other of word.parentElement.querySelectorAll(".word")) other.setAttribute("aria-pressed", String(pin && other === word));
    if (!pin && pointed === word) pointed = null; // the second click goes back to the sentence
    moveTo(word);
    update();
  });

  document.addEventListener("focusin", (event) => {
    const word = wordAt(event.target);
    if (word) moveTo(word);
    update();
  });
  document.addEventListener("focusout", () => setTimeout(update)); // once the next element has the focus

  // On a phone the answer is below the form.
  window.showAnswer = () => {
    const answer = document.querySelector("#result");
    if (answer.getBoundingClientRect().top > innerHeight / 2) answer.scrollIntoView();
  };

  document.addEventListener("keydown", (event) => {
    const word = wordAt(event.target);
    if (!word) return;
    const words = [...word.parentElement.querySelectorAll(".word")];
    const at = words.indexOf(word);
    const to = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: words.length - 1 }[event.key];
    if (event.key === "Escape") {
      for (const other of words) other.setAttribute("aria-pressed", "false");
      update();
    } else if (to !== undefined) {
      event.preventDefault();
      words[Math.min(Math.max(to, 0), words.length - 1)].focus();
    }
  });
}
