// Twenty calls of the `openai` package against the server at the base URL given as argument. Each
// prints `ok NAME`; the first that fails ends the program with an error.
import assert from "node:assert/strict";
import OpenAI, { BadRequestError, NotFoundError } from "openai";

const client = new OpenAI({ apiKey: "EMPTY", baseURL: process.argv[2], maxRetries: 0 });

const FRANCE = "The capital of France is";
const CONTINUATION = " Paris. Many people visit Paris every year.";
const QUESTION = [{ role: "user", content: "What is the capital of France?" }];
const ANSWER = "The capital of France is Paris.";

const complete = (options) =>
  client.completions.create({ model: "demo", prompt: FRANCE, temperature: 0, max_tokens: 32, ...options });
const chat = (options) =>
  client.chat.completions.create({ model: "demo", messages: QUESTION, temperature: 0, ...options });
const respond = (options) =>
  client.responses.create({ model: "demo", input: QUESTION[0].content, temperature: 0, ...options });

const collect = async (stream) => {
  const chunks = [];
  for await (const chunk of await stream) chunks.push(chunk);
  return chunks;
};

const calls = {
  "models are listed": async () => {
    const models = await client.models.list();
    assert.deepEqual(models.data.map((model) => model.id), ["demo"]);
  },
  "a completion": async () => {
    const { choices, usage } = await complete();
    assert.equal(choices[0].text, CONTINUATION);
    assert.equal(choices[0].finish_reason, "stop");
    assert.equal(usage.total_tokens, usage.prompt_tokens + usage.completion_tokens);
  },
  "several prompts keep their order": async () => {
    const { choices } = await complete({ prompt: [FRANCE, "The capital of Germany is"], max_tokens: 1 });
    assert.deepEqual(choices.map((choice) => choice.text), [" Paris", " Berlin"]);
  },
  "a completion is cut at max_tokens": async () => {
    const { choices } = await complete({ max_tokens: 1 });
    assert.equal(choices[0].finish_reason, "length");
  },
  "a completion stops at a stop string": async () => {
    const { choices } = await complete({ stop: ["."] });
    assert.equal(choices[0].text, " Paris");
  },
  "a completion with logprobs": async () => {
    const { choices } = await complete({ max_tokens: 2, logprobs: 2 });
    assert.equal(choices[0].logprobs.tokens.join(""), choices[0].text);
  },
  "a completion repeats its prompt": async () => {
    const { choices } = await complete({ echo: true });
    assert.equal(choices[0].text, FRANCE + CONTINUATION);
  },
  "seeded choices are repeatable": async () => {
    const draw = async () =>
      (await complete({ temperature: 1, n: 3, seed: 7 })).choices.map((choice) => choice.text);
    assert.deepEqual(await draw(), await draw());
  },
  "a completion stream": async () => {
    const chunks = await collect(complete({ stream: true }));
    assert.equal(chunks.map((chunk) => chunk.choices[0].text).join(""), CONTINUATION);
  },
  "a stream left early": async () => {
    for await (const _ of await complete({ stream: true })) break;
    assert.equal((await complete()).choices[0].text, CONTINUATION);
  },
  "a chat": async () => {
    const { choices } = await chat();
    assert.deepEqual([choices[0].message.role, choices[0].message.content], ["assistant", ANSWER]);
  },
  "a chat stream with usage": async () => {
    const chunks = await collect(chat({ stream: true, stream_options: { include_usage: true } }));
    const last = chunks.pop();
    assert.equal(chunks.map((chunk) => chunk.choices[0].delta.content ?? "").join(""), ANSWER);
    assert.ok(last.usage.completion_tokens > 0);
  },
  "a chat with logprobs": async () => {
    const { choices } = await chat({ logprobs: true, top_logprobs: 2 });
    assert.equal(choices[0].logprobs.content[0].top_logprobs.length, 2);
  },
  "the stream helper": async () => {
    const stream = client.chat.completions.stream({ model: "demo", messages: QUESTION, temperature: 0 });
    assert.equal(await stream.finalContent(), ANSWER);
  },
  "a response": async () => {
    const response = await respond();
    assert.equal(response.output_text, ANSWER);
    assert.equal(response.status, "completed");
  },
  "a response from a list of items with instructions": async () => {
    const response = await respond({ input: QUESTION, instructions: "You are a helpful assistant." });
    assert.equal(response.output_text, ANSWER);
  },
  "a response stream": async () => {
    const events = await collect(respond({ stream: true }));
    const deltas = events.filter((event) => event.type === "response.output_text.delta");
    assert.equal(deltas.map((event) => event.delta).join(""), ANSWER);
    assert.equal(events.at(-1).type, "response.completed");
  },
  "an earlier response is not found": async () => {
    await assert.rejects(client.responses.retrieve("resp_0"), NotFoundError);
  },
  "an unknown model is not found": async () => {
    await assert.rejects(complete({ model: "gpt-9" }), NotFoundError);
  },
  "a bad parameter is a bad request": async () => {
    await assert.rejects(chat({ temperature: -1 }), BadRequestError);
  },
};

for (const [name, call] of Object.entries(calls)) {
  try {
    await call();
  } catch (error) {
    console.error(`not ok ${name}`);
    throw error;
  }
  console.log(`ok ${name}`);
}
