// The official JavaScript client against a server with voices: node sound.mjs URL. Prints one line of JSON for each step that held.
import OpenAI from "openai";

const client = new OpenAI({ baseURL: process.argv[2], apiKey: "none", maxRetries: 0, timeout: 120_000 });
const model = "kokoro";

function held(step, found) {
  if (!found) throw new Error(`${step}: ${JSON.stringify(found)}`);
  console.log(JSON.stringify({ step }));
}

const spoken = await client.audio.speech.create({ model, voice: "zf_xiaoxiao", input: "今天天气很好。Hello there." });
const file = Buffer.from(await spoken.arrayBuffer());
held("mp3", spoken.headers.get("content-type") === "audio/mpeg" && file.subarray(0, 3).toString() === "ID3");

const raw = await client.audio.speech.create({ model, voice: "af_heart", input: "Hello.", response_format: "pcm", speed: 1.2 });
held("pcm", (await raw.arrayBuffer()).byteLength > 24_000);

const text = "Good morning to all of you here. The weather is fine today, let us go for a walk.";
let parts = 0;
const streamed = await client.audio.speech.create({ model, voice: "af_heart", input: text });
for await (const _ of streamed.body) parts += 1;
held("stream", parts > 1);

const refused = await client.audio.speech.create({ model, voice: "nobody", input: "Hello." }).catch((error) => error);
held("error", refused instanceof OpenAI.BadRequestError && refused.param === "voice");
