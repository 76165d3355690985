// OpenAI's SDK for Node.js as it comes: openai.mjs URL KEY, in the order of the answers that the provider was told to give.
import OpenAI from "openai";

const [url, apiKey] = process.argv.slice(2);
const client = new OpenAI({ baseURL: `${url}/v1`, apiKey, maxRetries: 0 });
const messages = [{ role: "user", content: "Hello!" }];
const tools = [{ type: "function", function: { name: "weather", parameters: { type: "object" } } }];
const schema = { type: "object", properties: { name: { type: "string" } } };
const seen = {};

async function refusal(call) {
  try {
    await call();
  } catch (error) {
    return { kind: error.constructor.name, status: error.status ?? null, code: error.code ?? null };
  }
  return null;
}

const plain = await client.chat.completions.create({ model: "tiny", messages });
seen.chat = plain.choices[0].message.content;

seen.stream = "";
const stream = await client.chat.completions.create({ model: "tiny", messages, stream: true, stream_options: { include_usage: true } });
for await (const chunk of stream) seen.stream += chunk.choices[0]?.delta.content ?? "";

const called = await client.chat.completions.create({ model: "far", messages, tools });
seen.tool = called.choices[0].message.tool_calls[0].function;
const runner = client.chat.completions.stream({ model: "claude", messages, tools });
seen.streamedTool = (await runner.finalChatCompletion()).choices[0].message.tool_calls[0].function;

const format = { type: "json_schema", json_schema: { name: "city", strict: true, schema } };
seen.structured = JSON.parse((await client.chat.completions.create({ model: "far", messages, response_format: format })).choices[0].message.content);
seen.embedding = (await client.embeddings.create({ model: "far", input: "text", encoding_format: "float" })).data[0].embedding;
seen.retried = (await client.chat.completions.create({ model: "far", messages }, { maxRetries: 1 })).choices[0].message.content;

seen.unknown = await refusal(() => client.chat.completions.create({ model: "huge", messages }));
seen.stranger = await refusal(() => new OpenAI({ baseURL: `${url}/v1`, apiKey: "nonsense", maxRetries: 0 }).models.list());
seen.broken = await refusal(async () => {
  for await (const _ of await client.chat.completions.create({ model: "far", messages, stream: true })) continue;
});
seen.slow = await refusal(() => client.chat.completions.create({ model: "far", messages }, { timeout: 200 }));
seen.models = [];
for await (const model of client.models.list()) seen.models.push(model.id);
console.log(JSON.stringify(seen));
process.exit(0);
