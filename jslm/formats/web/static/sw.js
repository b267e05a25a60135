// Keeps the folder's files, so that the page opens without a network. `VERSION` and `FILES` stand above, by the export.

// All pages of one host share its caches: the name says whose it is.
const MINE = `jslm ${self.registration.scope} `;
const CACHE = MINE + VERSION;

self.addEventListener("install", (event) => event.waitUntil(keep()));
self.addEventListener("activate", (event) => event.waitUntil(tidy()));
self.addEventListener("fetch", (event) => {
  const inside = event.request.method === "GET" && event.request.url.startsWith(self.registration.scope);
  if (inside) event.respondWith(find(event.request));
});

async function keep() {
  const cache = await caches.open(CACHE);
  // What the page has just loaded is not sent again: the server is only asked whether it still holds.
  await cache.addAll(FILES.map((file) => new Request(file, { cache: "no-cache" })));
}

async function tidy() {
  for (const name of await caches.keys()) {
    if (name.startsWith(MINE) && name !== CACHE) await caches.delete(name);
  }
  await self.clients.claim();
}

async function find(request) {
  const cache = await caches.open(CACHE);
  return (await cache.match(request, { ignoreSearch: true })) ?? fetch(request);
}
