// The microphone: whether there may be one, and its frames.

const WANTED = { audio: { channelCount: 1, echoCancellation: true, noiseSuppression: true, autoGainControl: true } };

const REASONS = {
  NotAllowedError: "The browser was told not to give this page the microphone. Allow it in the page's settings, beside the address.",
  NotFoundError: "There is no microphone.",
  NotReadableError: "Another program holds the microphone, or the system does not give it.",
};

const AGAIN = "The conversation is kept: press Unmute then.";

// Why one that was there is gone, and what to do. `permissions`: navigator's, where it has them.
export const whyLost = async (permissions) => {
  const state = await permissions?.query({ name: "microphone" }).then((each) => each.state, () => "granted");
  return (state ?? "granted") === "granted"
    ? `The microphone is gone: it was unplugged, or the system gave it away. Bring it back, or choose another. ${AGAIN}`
    : `The browser has taken the microphone away from this page. Allow it again in the page's settings, beside the address. ${AGAIN}`;
};

// Why a page has none, in a sentence, and where it has one; null where it may.
export const whyNot = ({ isSecureContext, mediaDevices, hostname, httpsPort }) => {
  if (mediaDevices?.getUserMedia) return null;
  if (isSecureContext) return { text: "This browser has no microphone to give.", address: "" };
  return {
    text: "Browsers give a page a microphone over HTTPS alone, or on the machine itself. Open this page there, once `mlx-gateway up --share` runs on that Mac:",
    address: `https://${hostname}:${httpsPort}/console/v/voice.html`,
  };
};

// {stop(), hasEchoCancellation}. `onLost` is called when it is taken away. Raises an Error that says why there is none.
export const openMicrophone = async (context, onFrame, onLost) => {
  const stream = await navigator.mediaDevices.getUserMedia(WANTED).catch((error) => {
    throw new Error(REASONS[error.name] || error.message);
  });
  try {
    return connected(context, stream, onFrame, onLost);
  } catch (error) {
    for (const track of stream.getTracks()) track.stop(); // the page was closed meanwhile
    throw error;
  }
};

const connected = (context, stream, onFrame, onLost) => {
  const [track] = stream.getAudioTracks();
  const source = context.createMediaStreamSource(stream);
  const capture = new AudioWorkletNode(context, "capture", { numberOfOutputs: 1 });
  capture.port.onmessage = ({ data }) => onFrame(data);
  source.connect(capture).connect(context.destination); // it says nothing there, but runs
  track.addEventListener("ended", onLost);
  const stop = () => {
    track.removeEventListener("ended", onLost);
    track.stop();
    source.disconnect();
    capture.disconnect();
    capture.port.onmessage = null;
  };
  return { stop, hasEchoCancellation: Boolean(track.getSettings().echoCancellation) };
};

export const openContext = async () => {
  const context = new AudioContext();
  await context.audioWorklet.addModule(new URL("./capture.js", import.meta.url));
  return context;
};
