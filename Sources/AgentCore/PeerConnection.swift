internal import Backup
public import BackupStore
public import BlockIO
internal import Geometry
public import Transport

/// Conversations with the agents of other hosts.
public enum PeerConnection {
    /// Logs in at `target`, starts the agent there and waits for its hello.
    /// - Parameters:
    ///   - product: this version, which the peer is told.
    ///   - onErrorLine: gets what the far side writes to its standard error, on another thread.
    public static func open(
        _ target: SSHTarget, product: String, options: SSHOptions = .fromEnvironment(),
        onErrorLine: @escaping @Sendable (String) -> Void = { _ in }
    ) throws(TransportError) -> MessageChannel {
        var options = options
        options.onErrorLine = onErrorLine
        let stream = try SSHConnection.open(target, options: options)
        var channelOptions = ChannelOptions()
        channelOptions.product = product
        channelOptions.silenceMilliseconds = options.silenceMilliseconds
        let channel = try MessageChannel(stream: stream, peerName: target.host, options: channelOptions)
        do throws(TransportError) { _ = try channel.greeting() } catch {
            channel.close()
            throw error
        }
        return channel
    }
}

/// Where a store is: a folder of this host, or `ssh://[user@]host[:port]/folder`.
public enum StoreLocation: Hashable, Sendable, CustomStringConvertible {
    case folder(String)
    case peer(SSHTarget, folder: String)

    public init(parsing text: String) throws(TransportError) {
        guard SSHTarget.isURL(text) else {
            guard !text.isEmpty else {
                throw TransportError(.invalidTarget, "a store is a folder or ssh://[user@]host[:port]/folder")
            }
            self = .folder(text)
            return
        }
        let target = try SSHTarget(parsingWithFolder: text)
        guard let folder = target.path else { throw TransportError(.invalidTarget, "'\(text)' names no folder") }
        self = .peer(target, folder: folder)
    }

    public var description: String {
        switch self {
        case .folder(let path): path
        case .peer(let target, let folder): "ssh://\(target)\(PathText.isAbsolute(folder) ? "" : "/~/")\(folder)"
        }
    }

    /// Opens the store.
    /// - Throws: `StoreError`, or `TransportError` when the peer can't be reached at all.
    public func open(
        writable: Bool, fs: any FileSystem, product: String,
        onErrorLine: @escaping @Sendable (String) -> Void = { _ in }
    ) throws -> any StoreBackend {
        switch self {
        case .folder(let path): return try LocalStore(opening: path, writable: writable, in: fs)
        case .peer(let target, let folder):
            let channel = try PeerConnection.open(target, product: product, onErrorLine: onErrorLine)
            return try RemoteStore(peer: channel, folder: folder, address: description, writable: writable)
        }
    }

    /// Makes an empty store. - Throws: as ``open(writable:fs:product:onErrorLine:)``.
    public func create(
        uuid: String, chunkBytes: UInt32, fs: any FileSystem, product: String,
        onErrorLine: @escaping @Sendable (String) -> Void = { _ in }
    ) throws {
        switch self {
        case .folder(let path): try LocalStore.create(at: path, uuid: uuid, chunkBytes: chunkBytes, in: fs)
        case .peer(let target, let folder):
            let channel = try PeerConnection.open(target, product: product, onErrorLine: onErrorLine)
            try RemoteStore.create(
                peer: channel, folder: folder, address: description, uuid: uuid, chunkBytes: chunkBytes)
        }
    }
}
