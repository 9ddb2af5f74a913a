/// What a peer says of itself before anything else.
public struct PeerInfo: Hashable, Sendable {
    /// The version of the protocol that both sides now speak.
    public var version: UInt16
    /// The peer's product version, for people.
    public var product: String
    /// Features that both sides have.
    public var features: UInt64

    public init(version: UInt16, product: String, features: UInt64) {
        self.version = version
        self.product = product
        self.features = features
    }
}

/// The first message of each side. Its form and the bytes before it stay the same in all versions of the protocol.
struct Hello: Hashable {
    /// What the stream starts with. The line end shows a stream that translates text.
    static let preamble = [UInt8]("godwit\r\n".utf8)
    static let versions: ClosedRange<UInt16> = 1...1

    var versions = Hello.versions
    /// How many bytes of messages the sender of this takes before it grants more.
    var window: UInt32
    /// After this much silence the sender of this gives up.
    var silenceMilliseconds: UInt32
    var features: UInt64
    var product: String

    var message: Message {
        var writer = PayloadWriter()
        writer.put(versions.lowerBound)
        writer.put(versions.upperBound)
        writer.put(window)
        writer.put(silenceMilliseconds)
        writer.put(features)
        writer.put(text: product)
        return Message(kind: ChannelKind.hello, payload: writer.bytes)
    }

    init(window: UInt32, silenceMilliseconds: UInt32, features: UInt64, product: String) {
        self.window = window
        self.silenceMilliseconds = silenceMilliseconds
        self.features = features
        self.product = product
    }

    init(parsing message: Message) throws(TransportError) {
        guard message.kind == ChannelKind.hello else {
            throw TransportError(
                .protocolViolation, "the peer began with message kind \(message.kind) instead of hello")
        }
        var reader = PayloadReader(message.payload)
        let lowest = try reader.next("lowest version", as: UInt16.self)
        let highest = try reader.next("highest version", as: UInt16.self)
        guard lowest <= highest else {
            throw TransportError(.protocolViolation, "the peer says that it speaks versions \(lowest) to \(highest)")
        }
        versions = lowest...highest
        window = try reader.next("window")
        silenceMilliseconds = try reader.next("silence")
        features = try reader.next("features")
        product = try reader.text("product version")
        // What follows is for later versions.
    }

    /// What both sides can do, or why they can't talk.
    func agree(with peer: Hello, peerName: String) throws(TransportError) -> PeerInfo {
        let version = min(versions.upperBound, peer.versions.upperBound)
        guard version >= max(versions.lowerBound, peer.versions.lowerBound) else {
            let older = peer.versions.upperBound < versions.lowerBound ? "upgrade godwit there" : "upgrade this godwit"
            throw TransportError(
                .versionMismatch,
                "godwit \(peer.product) at \(peerName) speaks peer protocol \(Self.text(peer.versions)), "
                    + "godwit \(product) here \(Self.text(versions)): \(older)")
        }
        return PeerInfo(version: version, product: peer.product, features: features & peer.features)
    }

    private static func text(_ versions: ClosedRange<UInt16>) -> String {
        versions.count == 1 ? "\(versions.lowerBound)" : "\(versions.lowerBound) to \(versions.upperBound)"
    }
}
