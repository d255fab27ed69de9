// One streamed answer of an official TypeScript package, without retries: PACKAGE (anthropic, openai or responses), asked
// PROMPT at BASE_URL. SDK is the package's folder, MODEL the model to ask for, TOOLS whether it may call one.
// Prints a line for each piece as it comes, and at the end what the package made of all as one line of JSON.
import { pathToFileURL } from 'node:url';

const { BASE_URL, MODEL, PACKAGE, PROMPT, SDK, TOOLS } = process.env;
const { default: Client } = await import(pathToFileURL(`${SDK}/index.mjs`));
const asked = { apiKey: 'any', maxRetries: 0, timeout: 60_000 };
const messages = [{ role: 'user', content: PROMPT }];
const schema = { type: 'object', properties: { command: { type: 'string' } }, required: ['command'] };
const piece = () => console.log('piece');

const packages = {
  async anthropic() {
    const tools = [{ name: 'Bash', description: 'Run a command', input_schema: schema }];
    const client = new Client({ ...asked, baseURL: BASE_URL });
    const stream = client.messages.stream({ model: MODEL, max_tokens: 2000, messages, ...(TOOLS && { tools }) });
    const message = await stream.on('text', piece).on('inputJson', piece).finalMessage();
    const [block] = message.content;
    return { text: block.text, command: block.input?.command, reason: message.stop_reason };
  },

  async openai() {
    const tools = [{ type: 'function', function: { name: 'Bash', parameters: schema } }];
    const client = new Client({ ...asked, baseURL: `${BASE_URL}/v1` });
    const stream = client.chat.completions.stream({ model: MODEL, max_tokens: 2000, messages, ...(TOOLS && { tools }) });
    stream.on('content', piece).on('tool_calls.function.arguments.delta', piece);
    const { choices } = await stream.finalChatCompletion();
    const [{ message, finish_reason: reason }] = choices;
    const call = message.tool_calls?.[0]?.function.arguments;
    return { text: message.content, command: call && JSON.parse(call).command, reason };
  },

  async responses() {
    const tools = [{ type: 'function', name: 'Bash', parameters: schema, strict: false }];
    const client = new Client({ ...asked, baseURL: `${BASE_URL}/v1` });
    const stream = client.responses.stream({ model: MODEL, input: PROMPT, ...(TOOLS && { tools }) });
    stream.on('response.output_text.delta', piece).on('response.function_call_arguments.delta', piece);
    const response = await stream.finalResponse();
    const call = response.output.find((item) => item.type === 'function_call');
    return { text: response.output_text, command: call && JSON.parse(call.arguments).command, reason: response.status };
  },
};

console.log(JSON.stringify(await packages[PACKAGE]()));
