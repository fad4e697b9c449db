// What can go wrong on the way into the call, in words that say what to do about it.

/**
 * @typedef {object} Problem
 * @property {string} title what happened
 * @property {string} todo what to do now
 * @property {'pattern' | 'retry'} [action] what the button beside it does
 * @property {'bad' | 'info'} [tone] 'bad' when absent
 */

const MEDIA = {
  NotAllowedError: {
    title: 'The browser does not let this page use your camera and microphone',
    todo: 'Allow both with the camera symbol beside the address, then start again. Or go on with a test picture.',
    action: 'pattern',
  },
  NotFoundError: {
    title: 'No camera or microphone was found',
    todo: 'Connect one and start again. Or go on with a test picture.',
    action: 'pattern',
  },
  NotReadableError: {
    title: 'The camera or the microphone is busy',
    todo: 'Close the program that uses it, then start again. Or go on with a test picture.',
    action: 'pattern',
  },
  SecurityError: {
    title: 'Browsers give a camera only to secure pages',
    todo: 'Open this page by https, or by http://localhost on the machine that runs it.',
  },
}

const SIGNALING = {
  [-32010]: {
    title: 'The signaling server does not know you',
    todo: 'It asks for a token. Open the address that the demo printed.',
  },
  [-32011]: {
    title: 'Too many tries in a short time',
    todo: 'Wait half a minute, then start again.',
    action: 'retry',
  },
  [-32012]: {
    title: 'Somebody else has your id in this room',
    todo: 'Start again to get a new one.',
    action: 'retry',
  },
  [-32013]: { title: 'This room does not let you in', todo: 'Ask whoever runs it to allow your id.' },
}

/** @returns {Problem} */
export function explain(error, url) {
  if (error.name === 'SignalingError') {
    const known = SIGNALING[error.code]
    if (known) return known
    if (!error.code) {
      return {
        title: 'The signaling server does not answer',
        todo: `Nothing is listening at ${url}. Start it with “npm run demo”, then try again.`,
        action: 'retry',
      }
    }
    return {
      title: 'The signaling server said no',
      todo: `${error.message} (${error.code}).`,
      action: 'retry',
    }
  }
  return (
    MEDIA[error.name] ?? { title: 'The call could not start', todo: `${error.message}.`, action: 'retry' }
  )
}

export const PEER_MISSING = {
  title: 'The pipeline is not in the room yet',
  todo: 'Its Node process starts with “npm run demo”. The call begins by itself as soon as it joins.',
  tone: 'info',
}

export const CONNECTION_FAILED = {
  title: 'No network path to the pipeline was found',
  todo: 'A firewall or a VPN may block UDP between this browser and the Node process. Start again to retry.',
  action: 'retry',
}
