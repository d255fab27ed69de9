// A conversation and its microphone, which is a stand-in here: that a browser gives and takes one is test_voice.py's.
import assert from "node:assert/strict";
import { test } from "node:test";
import { openMicrophone, whyLost } from "../../../gateway/admin/page/voice/microphone.js";
import { Session } from "../../../gateway/admin/page/voice/session.js";

class StandInTalk {
  constructor() {
    Object.assign(this, { isMuted: false, isClosed: false, frames: 0, interruption: { isHalfDuplex: false } });
  }

  hear() { this.frames += 1; }
  mute(isMuted) { this.isMuted = isMuted; }
  close() { this.isClosed = true; }
}

const stand = ({ hasEchoCancellation = true } = {}) => {
  const at = { talk: new StandInTalk(), opened: [], answers: [], lost: 0 };
  const open = async (onFrame, onLost) => {
    await at.answers.shift();
    const microphone = { onFrame, onLost, isOn: true, hasEchoCancellation, stop() { this.isOn = false; } };
    at.opened.push(microphone);
    return microphone;
  };
  at.session = new Session(at.talk, open, () => { at.lost += 1; });
  return at;
};

const started = async (options) => {
  const at = stand(options);
  await at.session.listen();
  return at;
};

test("what the microphone hears is heard, and without echo cancellation the conversation is half duplex", async () => {
  const at = await started();
  at.opened[0].onFrame(new Float32Array(320));
  assert.deepEqual([at.talk.frames, at.talk.interruption.isHalfDuplex], [1, false]);
  assert.equal((await started({ hasEchoCancellation: false })).talk.interruption.isHalfDuplex, true);
});

test("muted, the microphone itself is off, and another is opened afterwards", async () => {
  const at = await started();
  await at.session.mute(true);
  assert.deepEqual([at.talk.isMuted, at.opened[0].isOn], [true, false]);
  await at.session.mute(false);
  assert.deepEqual([at.talk.isMuted, at.opened.map((each) => each.isOn)], [false, [false, true]]);
});

test("a microphone that is taken away mutes the conversation, which goes on when there is one again", async () => {
  const at = await started();
  at.opened[0].onLost();
  assert.deepEqual([at.talk.isMuted, at.talk.isClosed, at.lost], [true, false, 1]);
  at.answers.push(Promise.reject(new Error("not allowed")));
  await assert.rejects(at.session.mute(false), /not allowed/);
  assert.equal(at.talk.isMuted, true);
  await at.session.mute(false);
  assert.deepEqual([at.talk.isMuted, at.opened.length], [false, 2]);
});

test("Unmute pressed twice while the browser asks opens one microphone", async () => {
  const at = await started();
  await at.session.mute(true);
  await Promise.all([at.session.mute(false), at.session.mute(false)]);
  assert.deepEqual(at.opened.map((each) => each.isOn), [false, true]);
});

for (const isAllowed of [true, false]) {
  test(`End while the browser asks leaves no microphone open, and tells nobody of it: ${isAllowed ? "allowed" : "refused"}`, async () => {
    const at = await started();
    await at.session.mute(true);
    let answered;
    at.answers.push(new Promise((done, fail) => { answered = isAllowed ? done : () => fail(new Error("refused")); }));
    const unmuted = at.session.mute(false);
    while (at.answers.length) await new Promise((done) => setImmediate(done)); // until it asks
    at.session.close();
    answered();
    await unmuted;
    assert.deepEqual([at.talk.isClosed, at.opened.map((each) => each.isOn)], [true, isAllowed ? [false, false] : [false]]);
  });
}

test("why a microphone is gone, and what to do: the browser took it, or it is not there", async () => {
  const told = (state) => whyLost({ query: async () => ({ state }) });
  for (const state of ["denied", "prompt"]) assert.match(await told(state), /browser has taken .* Allow it again .* Unmute/);
  assert.match(await told("granted"), /unplugged.* Unmute/);
  assert.match(await whyLost({ query: async () => { throw new TypeError("not known here"); } }), /unplugged/);
  assert.match(await whyLost(undefined), /unplugged/);
});

const withMicrophone = async (getUserMedia, open) => {
  const before = Object.getOwnPropertyDescriptor(globalThis, "navigator");
  Object.defineProperty(globalThis, "navigator", { value: { mediaDevices: { getUserMedia } }, configurable: true });
  try {
    return await open();
  } finally {
    if (before) Object.defineProperty(globalThis, "navigator", before);
    else delete globalThis.navigator;
  }
};

for (const [name, told] of [["NotAllowedError", /told not to give/], ["NotFoundError", /no microphone/], ["NotReadableError", /Another program/]]) {
  test(`why there is no microphone is a sentence: ${name}`, async () => {
    const refused = async () => { throw Object.assign(new Error("?"), { name }); };
    await withMicrophone(refused, () => assert.rejects(openMicrophone({}, () => {}, () => {}), told));
  });
}

test("a microphone that comes when the page's sound is closed is let go", async () => {
  const track = { isOn: true, stop() { this.isOn = false; } };
  const stream = { getTracks: () => [track], getAudioTracks: () => [track] };
  const closed = { createMediaStreamSource() { throw new Error("closed"); } };
  await withMicrophone(async () => stream, () => assert.rejects(openMicrophone(closed, () => {}, () => {}), /closed/));
  assert.equal(track.isOn, false);
});
