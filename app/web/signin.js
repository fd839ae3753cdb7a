const form = document.getElementById("signin");
const trouble = document.getElementById("trouble");

// Only a path of this service: "//elsewhere" and "https://elsewhere" are not.
function next() {
  const wanted = new URLSearchParams(location.search).get("next") || "/";
  return /^\/[^/\\]*/.test(wanted) && new URL(wanted, location.origin).origin === location.origin ? wanted : "/";
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  trouble.textContent = "";
  try {
    const answer = await fetch("/session", {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ key: form.key.value.trim() }),
    });
    if (answer.ok) location.assign(next());
    else trouble.textContent = (await answer.json()).detail;
  } catch {
    trouble.textContent = "The service does not answer.";
  }
});
