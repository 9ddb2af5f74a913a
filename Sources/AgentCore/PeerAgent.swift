internal import Backup
internal import BackupStore
public import BlockIO
internal import Geometry
internal import LinuxSystem
public import Migration
internal import SystemPackage
public import Transport

/// What a peer may do here. Set by the agent's options, which a forced command in authorized_keys fixes.
public struct PeerLimits: Hashable, Sendable {
    /// Stores only in this folder or below it.
    public var storeFolder: String?
    /// Stores and disks only below this folder.
    public var rootFolder: String?
    /// Nothing may be changed.
    public var isReadOnly = false

    public init() {}
}

/// `godwit agent --stdio`: one conversation with a peer, about one folder of this host, godwit-peer(5).
public struct PeerAgent: Sendable {
    private let fs: any FileSystem
    private let limits: PeerLimits
    private let product: String
    private let receiver: MigrationReceiver?

    /// - Parameters:
    ///   - product: this version, which the peer is told.
    ///   - receiver: takes disks that are moved here; `nil`: none are taken.
    public init(fs: any FileSystem, limits: PeerLimits = PeerLimits(), product: String, receiver: MigrationReceiver?) {
        self.fs = fs
        self.limits = limits
        self.product = product
        self.receiver = receiver
    }

    /// Talks over this process's standard input and output, until the peer is done or gone.
    /// - Throws: why the conversation ended early; nothing half-written is visible then.
    public func serveStandardStreams() throws(TransportError) {
        ignoreBrokenPipes()
        try serve(try PipeStream.standard(), peerName: "the client")
    }

    public func serve(_ stream: any ByteStream, peerName: String) throws(TransportError) {
        var options = ChannelOptions()
        options.product = product
        let channel = try MessageChannel(stream: stream, peerName: peerName, options: options)
        do throws(TransportError) {
            try serve(channel)
        } catch {
            // A peer that is still there shall know why.
            if error.code == .protocolViolation {
                channel.fail(code: "protocolViolation", message: error.message)
            } else {
                channel.close()
            }
            throw error
        }
        channel.close()
    }

    /// Reads what service is asked for, and serves it.
    public func serve(_ peer: any MessagePeer) throws(TransportError) {
        // One that only looked whether we are here says goodbye at once.
        guard let message = try peer.receive() else { return }
        let request = try ServiceRequest(parsing: message)
        switch admit(request) {
        case .failure(let refusal): try peer.send(refusal.message(id: 0))
        case .success(let folder):
            if StoreService.handles(request) {
                try StoreService(fs: fs).serve(peer, request: request, folder: folder)
            } else if let receiver {
                try receiver.serve(peer, folder: folder)
            }
        }
    }

    /// - Returns: the folder that the request is about, or why it is refused.
    func admit(_ request: ServiceRequest) -> Result<String, ServiceRefusal> {
        let isStore = StoreService.handles(request)
        guard isStore || request.service == "migrate" && receiver != nil else {
            return .failure(
                ServiceRefusal("unsupported", "this godwit does not offer the service '\(request.service)'"))
        }
        let changes = !request.isReadOnly || !StoreService.canBeReadOnly(request)
        if limits.isReadOnly && changes {
            return .failure(
                ServiceRefusal("readOnly", "this login may only read: \(request.service) of \(request.path) is refused")
            )
        }
        // Hooks get names a line each.
        guard !request.path.isEmpty, !request.path.utf8.contains(where: { $0 < 0x20 || $0 == 0x7f }) else {
            return .failure(ServiceRefusal("invalid", "the request names no folder, or one with control characters"))
        }
        if limits.storeFolder != nil && limits.rootFolder == nil && !isStore {
            return .failure(ServiceRefusal("forbidden", "this login is for stores only"))
        }
        let allowed =
            isStore ? [limits.storeFolder, limits.rootFolder].compactMap { $0 } : [limits.rootFolder].compactMap { $0 }
        guard let first = allowed.first else {
            if !isStore, let refusal = refusalWithinStore(request.path, request) { return .failure(refusal) }
            return .success(request.path)
        }
        let path = PathText.isAbsolute(request.path) ? request.path : PathText.join(first, request.path)
        do throws(SystemError) {
            for folder in allowed {
                guard let place = try place(of: path, within: folder) else { continue }
                guard !isStore else { return .success(place.path) }
                if place.isFolderItself { continue }
                if let refusal = refusalWithinStore(place.path, request) { return .failure(refusal) }
                return .success(place.path)
            }
            return .failure(
                ServiceRefusal(
                    "forbidden",
                    "\(request.path) is outside of what this login may use, or a link that leads nowhere: "
                        + allowed.joined(separator: ", ")))
        } catch {
            return .failure(ServiceRefusal("notFound", error.description))
        }
    }

    private func refusalWithinStore(_ path: String, _ request: ServiceRequest) -> ServiceRefusal? {
        guard let store = storeAround(path) else { return nil }
        return ServiceRefusal("refused", "\(request.path) is within the store \(store), which is no place for a disk")
    }

    /// Where a path leads, symbolic links followed, if it stays within a folder on the whole way. Nothing outside is
    /// looked at, so that nobody learns what is there.
    /// - Returns: `nil` when it leaves the folder.
    private func place(
        of path: String, within folder: String
    ) throws(SystemError) -> (path: String, isFolderItself: Bool)? {
        let root = Self.parts(try fs.resolve(folder))
        let asked = Self.parts(path)
        let starts = [root, Self.parts(folder)].filter { asked.starts(with: $0) }
        guard let start = starts.map(\.count).max() else { return nil }
        var place = root
        var isThere = true
        for part in asked[start...] {
            if part == [UInt8(ascii: ".")] { continue }
            if part == Array("..".utf8) {
                // What does not exist has no parent to go up to.
                guard isThere, place.count > root.count else { return nil }
                place.removeLast()
                continue
            }
            place.append(part)
            guard isThere else { continue }
            isThere = try fs.isTaken(Self.text(place))
            guard isThere else { continue }
            // A link to what does not exist would be followed when that is made.
            guard let resolved = try? fs.resolve(Self.text(place)) else { return nil }
            place = Self.parts(resolved)
            guard place.starts(with: root) else { return nil }
        }
        return (Self.text(place), place.count == root.count)
    }

    /// Names are bytes to the kernel: two that look the same may differ.
    private static func parts(_ path: String) -> [[UInt8]] {
        path.utf8.split(separator: UInt8(ascii: "/")).map { Array($0) }
    }

    private static func text(_ parts: [[UInt8]]) -> String {
        "/" + parts.map { String(decoding: $0, as: UTF8.self) }.joined(separator: "/")
    }

    /// The store that `path` is, or lies in; `nil` when there is none, or nothing to tell it by.
    private func storeAround(_ path: String) -> String? {
        guard var place = try? fs.resolveNew(path) else { return nil }
        while place != "/" {
            if (try? fs.exists("\(place)/\(LocalStore.markName)")) == true { return place }
            place = PathText.parent(of: place)
        }
        return nil
    }
}

/// Why a request for a service is refused.
struct ServiceRefusal: Error, Hashable {
    var failure: ServiceFailure
    init(_ code: String, _ text: String) { failure = ServiceFailure(code: code, text: text) }
    func message(id: UInt32) -> Message { failure.message(id: id) }
}
