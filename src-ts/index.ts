import { native } from './native/load.js'

export { DataChannel, type DataChannelEvents, type DataChannelOptions } from './channel.js'
export * from './codecs.js'
export type {
  AudioConfig,
  DataChannelMode,
  ReconnectConfig,
  VideoConfig,
  WebRtcConfig,
} from './config.js'
export type {
  AudioData,
  AudioMixData,
  BinaryData,
  DataKind,
  JsonData,
  RuntimeData,
  Sendable,
  TextData,
  TransportData,
  VideoData,
} from './data.js'
export { WEBRTC_ERROR_CODES, WebRtcError, type WebRtcErrorCode, type WebRtcErrorOptions } from './errors.js'
export * from './frame.js'
export type { IceTransportPolicy, TurnServer, TurnServersFunction } from './ice.js'
export type { SignalingChange } from './membership.js'
export * from './message.js'
export {
  METRICS_CONTENT_TYPE,
  type MetricsOptions,
  type MetricsServer,
  metricsHandler,
  metricsText,
} from './metrics.js'
export type {
  IceCandidateType,
  PeerConnectionState,
  PeerId,
  PeerInfo,
  PeerPath,
  PeerReason,
  PeerStateChange,
} from './peers.js'
export * from './pipeline/manifest.js'
export {
  defineNode,
  type NodeContext,
  type NodeDefinition,
  type NodeInputs,
  type NodeOutput,
  type PortKind,
  type WorkerNodeDefinition,
} from './pipeline/node.js'
export { type ManifestSource, PipelineRunner } from './pipeline/runner.js'
export {
  type DropReason,
  type EdgeStats,
  type InstanceStats,
  type Latency,
  MultiPeerSession,
  type NodeStats,
  type Received,
  type ReceiveOptions,
  Route,
  type RouteOptions,
  type SessionOutput,
  type SessionStats,
} from './session.js'
export { SignalingClient, type SignalingClientState } from './signaling/client.js'
export type * from './signaling/client-events.js'
export type { SignalingClientOptions, SignalingReconnectOptions } from './signaling/client-options.js'
export { SignalingServer } from './signaling/server.js'
export type { PeerQuality, QualityChange } from './stats/quality.js'
export {
  type MediaKind,
  type RTCCertificateStats,
  type RTCCodecStats,
  type RTCDataChannelStats,
  type RTCIceCandidatePairStats,
  type RTCIceCandidateStats,
  type RTCInboundRtpStreamStats,
  type RTCMediaSourceStats,
  type RTCOutboundRtpStreamStats,
  type RTCPeerConnectionStats,
  type RTCRemoteInboundRtpStreamStats,
  type RTCRemoteOutboundRtpStreamStats,
  type RTCStats,
  type RTCStatsOf,
  RTCStatsReport,
  type RTCStatsType,
  type RTCTransportStats,
} from './stats/types.js'
export * from './transport.js'

/** What the native addon was built from: for bug reports. */
export interface BuildInfo {
  /** Version of the package. */
  version: string
  /** Rust target triple, such as `x86_64-unknown-linux-gnu`. */
  target: string
  /** Cargo profile: `release` or `debug`. */
  profile: string
  /** Video codecs that can be opened: `VP9`, `VP8`, and `H264` unless it was built without. */
  videoCodecs: string[]
}

/** What the native addon was built from. */
export function buildInfo(): BuildInfo {
  return native.buildInfo()
}
