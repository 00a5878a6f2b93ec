/** Reads the body of a request. */

const MAX_BODY_BYTES = 4_096;

/** The body as text; undefined when it is longer than MAX_BODY_BYTES. One that states its length is not read as a stream. */
export async function readBody(request: Request): Promise<string | undefined> {
  const length = request.headers.get("content-length");
  const isStream = length === null || request.headers.has("transfer-encoding"); // which overrides the length
  if (!isStream) return Number(length) <= MAX_BODY_BYTES ? request.text() : undefined;
  const chunks: Uint8Array[] = [];
  let size = 0;
  for await (const chunk of request.body ?? []) {
    size += chunk.length;
    if (size > MAX_BODY_BYTES) return undefined; // and the rest is not read
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString();
}
