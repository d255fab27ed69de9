// Shared by all tabs of a browser: over HTTP/1.1 each tab's own stream would take one of six connections.

import { Stream } from "./stream.js";

const stream = new Stream();

self.onconnect = (event) => {
  const port = event.ports[0];
  const send = (message) => port.postMessage(message);
  port.onmessage = ({ data }) => {
    if (data.topics.length) stream.listen(send, data.topics);
    else stream.leave(send);
  };
};
