// The folder's large files: their bytes, with progress, checked for having come whole.

export const AGAIN = "copy the whole exported folder to the server again";

/** The JSON object in a file of this folder. */
export async function json(name) {
  const found = await answer(name);
  return found.json().catch(() => {
    throw new Error(`${name}: cut short, or no JSON; ${AGAIN}`);
  });
}

/**
 * The bytes of each of `files`, `{name, stored, bytes}`: its size in the folder, and unpacked where its name ends in
 * .gz. `progress(loaded, total)` is called as they come. Throws where one is missing or cut.
 */
export async function download(files, progress) {
  const total = files.reduce((sum, file) => sum + file.stored, 0);
  let loaded = 0;
  const count = (bytes) => progress((loaded += bytes), total);
  return Promise.all(files.map((file) => one(file, count)));
}

async function answer(name) {
  // Asked for anew each time: a folder that was exported again has other files of the same names.
  const found = await fetch(new URL(name, import.meta.url), { cache: "no-cache" }).catch(() => {
    throw new Error(`${name}: not reached; are you online?`);
  });
  if (!found.ok) throw new Error(`${name}: the server answers ${found.status}; ${AGAIN}`);
  return found;
}

async function one({ name, stored, bytes }, count) {
  const body = (await answer(name)).body.pipeThrough(new TransformStream({
    transform(chunk, controller) {
      count(chunk.length);
      controller.enqueue(chunk);
    },
  }));
  let found = await whole(body);
  const packed = name.endsWith(".gz");
  // Servers that know the name may have it unpacked on the way.
  if (packed && found[0] === 0x1f && found[1] === 0x8b) {
    if (found.length !== stored) throw cut(name, found.length, stored);
    found = await whole(new Blob([found]).stream().pipeThrough(new DecompressionStream("gzip")));
  }
  if (found.length !== bytes) throw cut(name, found.length, bytes);
  return found;
}

const whole = async (stream) => new Uint8Array(await new Response(stream).arrayBuffer());

const cut = (name, found, expected) => new Error(
  `${name}: ${found.toLocaleString("en")} bytes, expected ${expected.toLocaleString("en")}; ${AGAIN}`);
