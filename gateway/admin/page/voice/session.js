// A conversation and its microphone, for as long as it is open. What opens a microphone is given: `open(onFrame, onLost)`,
// a promise of {stop(), hasEchoCancellation} that fails with why there is none.

export class Session {
  // `lost` is called when the microphone was taken away. The conversation goes on, muted.
  constructor(talk, open, lost) {
    this.talk = talk;
    this.open = open;
    this.lost = lost;
    this.microphone = null;
    this.isClosed = false;
    this.line = Promise.resolve();
  }

  async listen() {
    const microphone = await this.open((frame) => this.talk.hear(frame), () => this.lose());
    if (this.isClosed) {
      microphone.stop();
      return;
    }
    this.microphone = microphone;
    this.talk.interruption.isHalfDuplex = !microphone.hasEchoCancellation;
  }

  // One change after another: a browser may ask its user in between. Muted, there is no microphone, so that its light
  // is out.
  mute(isMuted) {
    const done = this.line.then(() => this.change(isMuted)).catch((error) => { if (!this.isClosed) throw error; });
    this.line = done.catch(() => {});
    return done;
  }

  async change(isMuted) {
    if (this.isClosed || isMuted === this.talk.isMuted) return;
    if (isMuted) this.drop();
    else await this.listen();
    if (!this.isClosed) this.talk.mute(isMuted);
  }

  lose() {
    this.drop();
    this.talk.mute(true);
    this.lost();
  }

  drop() {
    this.microphone?.stop();
    this.microphone = null;
  }

  close() {
    this.isClosed = true;
    this.drop();
    this.talk.close();
  }
}
