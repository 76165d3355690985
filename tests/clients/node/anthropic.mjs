// Anthropic's SDK for Node.js as it comes: anthropic.mjs URL KEY, in the order of the answers that the provider was told to give.
import Anthropic from "@anthropic-ai/sdk";

const [url, apiKey] = process.argv.slice(2);
const client = new Anthropic({ baseURL: url, apiKey, maxRetries: 0 });
const asked = { max_tokens: 9, messages: [{ role: "user", content: "Hello!" }] };
const tools = [{ name: "weather", input_schema: { type: "object" } }];
const seen = {};

async function refusal(call) {
  try {
    await call();
  } catch (error) {
    return { kind: error.constructor.name, status: error.status ?? null };
  }
  return null;
}

const plain = await client.messages.create({ ...asked, model: "tiny", system: "Be kind." });
seen.message = plain.content[0].text;
seen.stream = await client.messages.stream({ ...asked, model: "tiny" }).finalText();
seen.tool = (await client.messages.create({ ...asked, model: "far", tools })).content[0].input;
const streamed = await client.messages.stream({ ...asked, model: "far", tools }).finalMessage();
seen.streamedTool = streamed.content[0].input;
seen.retried = (await client.messages.create({ ...asked, model: "far" }, { maxRetries: 1 })).content[0].text;
seen.unknown = await refusal(() => client.messages.create({ ...asked, model: "huge" }));
seen.stranger = await refusal(() => new Anthropic({ baseURL: url, apiKey: "nonsense" }).messages.create({ ...asked, model: "tiny" }));
seen.slow = await refusal(() => client.messages.create({ ...asked, model: "far" }, { timeout: 200 }));
console.log(JSON.stringify(seen));
process.exit(0);
