// The official JavaScript client against a running server: node flows.mjs URL [tune]. Prints one line of JSON for each step that held.
import OpenAI, { toFile } from "openai";

const [url, tune] = process.argv.slice(2);
const client = new OpenAI({ baseURL: url, apiKey: process.env.MIAOBI_API_KEY ?? "none", maxRetries: 0, timeout: 600_000 });
const model = "smollm2";
const messages = [{ role: "user", content: "What is the capital of France? One sentence." }];

function held(step, found) {
  if (!found) throw new Error(`${step}: ${JSON.stringify(found)}`);
  console.log(JSON.stringify({ step }));
}

async function ended(read) {
  for (;;) {
    const found = await read();
    if (["completed", "succeeded", "failed", "cancelled", "expired"].includes(found.status)) return found;
    await new Promise((done) => setTimeout(done, 500));
  }
}

const names = [];
for await (const found of client.models.list()) names.push(found.id);
held("models", names.includes(model));

// A prompt that llama.cpp has in its cache is computed in other pieces, and may round to another greedy text: so it is there for both.
await client.chat.completions.create({ model, messages, max_tokens: 1 });
const answer = await client.chat.completions.create({ model, messages, max_tokens: 24, seed: 1, temperature: 0 });
held("chat", answer.choices[0].message.content.length > 0 && answer.usage.prompt_tokens > 10);

let text = "", usage;
for await (const piece of await client.chat.completions.create({ model, messages, max_tokens: 24, seed: 1, temperature: 0, stream: true, stream_options: { include_usage: true } })) {
  text += piece.choices[0]?.delta?.content ?? "";
  usage = piece.usage ?? usage;
}
held("stream", text === answer.choices[0].message.content && usage.completion_tokens === answer.usage.completion_tokens);

const schema = { type: "object", properties: { city: { type: "string", maxLength: 20 } }, required: ["city"], additionalProperties: false };
const shaped = await client.chat.completions.create({ model, messages, max_tokens: 48, temperature: 0, response_format: { type: "json_schema", json_schema: { name: "city", schema, strict: true } } });
held("json_schema", typeof JSON.parse(shaped.choices[0].message.content).city === "string");

const continued = await client.completions.create({ model, prompt: "Once upon a time", max_tokens: 8, seed: 3 });
held("completions", continued.choices[0].text.length > 0);

const refused = await client.chat.completions.create({ model: "no-such-model", messages }).catch((error) => error);
held("error", refused instanceof OpenAI.NotFoundError && refused.message.includes("no-such-model") && refused.requestID);

const vectors = await client.embeddings.create({ model: "use-multilingual", input: ["Guten Tag", "Good day"] });
held("embeddings", vectors.data.length === 2 && vectors.data[0].embedding.length > 100);

const judged = await client.moderations.create({ input: "Have a nice day." });
held("moderations", judged.results[0].flagged === false);

const line = (id) => JSON.stringify({ custom_id: id, method: "POST", url: "/v1/chat/completions", body: { model, messages, max_tokens: 8, seed: 1 } });
const asked = await client.files.create({ file: await toFile(Buffer.from([line("a"), line("b")].join("\n")), "asked.jsonl"), purpose: "batch" });
const batch = await client.batches.create({ input_file_id: asked.id, endpoint: "/v1/chat/completions", completion_window: "24h" });
const done = await ended(() => client.batches.retrieve(batch.id));
const results = (await (await client.files.content(done.output_file_id)).text()).trim().split("\n").map(JSON.parse);
held("batches", done.status === "completed" && results.map((row) => row.custom_id).join() === "a,b" && results[0].response.status_code === 200);
await client.files.delete(asked.id);

if (tune) {
  const chats = Array.from({ length: 24 }, (_, at) => JSON.stringify({ messages: [{ role: "user", content: `What is ${at} plus ${at}?` }, { role: "assistant", content: `${at} plus ${at} is ${2 * at}.` }] }));
  const file = await client.files.create({ file: await toFile(Buffer.from(chats.join("\n")), "chats.jsonl"), purpose: "fine-tune" });
  const job = await client.fineTuning.jobs.create({ model, training_file: file.id, suffix: "sums-js", miaobi: { "train.max_steps": 2 } });
  const tuned = await ended(() => client.fineTuning.jobs.retrieve(job.id));
  const events = [];
  for await (const event of client.fineTuning.jobs.listEvents(job.id)) events.push(event.message);
  held("fine_tuning", tuned.status === "succeeded" && events.length > 1);
  const own = await client.chat.completions.create({ model: tuned.fine_tuned_model, messages, max_tokens: 8 });
  held("tuned model answers", own.choices[0].message.content.length > 0 && own.model === tuned.fine_tuned_model);
}
