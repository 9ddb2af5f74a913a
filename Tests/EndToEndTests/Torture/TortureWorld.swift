import BlockIO
import LinuxSystem
import TestSupport

/// Two hosts, a store on the first one, and a disk that a guest writes to while it is backed up and moved to and fro.
final class TortureWorld {
    static let diskBytes = 48 << 20
    static let chunkBytes = 64 << 10

    var random: SeededRandom
    let hosts: [TortureHost]
    var model = TortureModel(blockCount: TortureWorld.diskBytes / TortureModel.blockBytes)
    private(set) var guest: TortureGuest?
    /// Where the disk is, and how its folder is called there.
    var owner = 0
    var name = "disk0"
    var moves = 0
    private var server: DeviceBench.Attached?
    /// Points that were restored and found right.
    var points: [String: [UInt32]] = [:]
    /// Before the last backup that succeeded.
    var backedUp: TortureModel.Span?
    /// Kills, cuts and full file systems so far.
    private(set) var disturbances = 0
    /// What was done, for who has to find out why it went wrong.
    private(set) var history: [String] = []

    init(_ random: SeededRandom) throws {
        self.random = random
        hosts = [try TortureHost(name: "a"), try TortureHost(name: "b")]
        _ = try run(["disk", "create", disk, "--size", "\(Self.diskBytes)", "--cluster", "64K"]).expectSuccess()
        _ = try run(["store", "init", "\(hosts[0].path)/store"]).expectSuccess()
    }

    var here: TortureHost { hosts[owner] }
    var there: TortureHost { hosts[1 - owner] }
    var disk: String { "\(here.path)/\(name)" }
    var store: String { (owner == 0 ? "" : "ssh://far") + "\(hosts[0].path)/store" }

    /// Runs a command at the host that has the disk.
    func run(_ arguments: [String]) throws -> TortureCommand.Result {
        history.append("run " + arguments.joined(separator: " "))
        return try here.run(arguments, far: there)
    }

    func start(_ arguments: [String]) throws -> TortureCommand {
        history.append("start " + arguments.joined(separator: " "))
        return try here.start(arguments, far: there)
    }

    /// A fault has come.
    func disturbed(_ how: String) {
        disturbances += 1
        history.append(how)
    }

    // MARK: The guest

    /// Has the disk attached and the guest write to it.
    func live() throws {
        guard guest == nil else { return }
        let attached = try server ?? attach()
        guest = try TortureGuest(
            model, uri: attached.uri, seed: random.next(), pauseMilliseconds: random.oneIn(3) ? 0 : 1 + random.below(4))
        guest?.awaitRequests(20)
    }

    private func attach() throws -> DeviceBench.Attached {
        let attached = try run(["disk", "attach", disk, "--backend", "user"]).expectSuccess()
            .decode(DeviceBench.Attached.self)
        server = attached
        return attached
    }

    /// Ends the guest. - Returns: what it got instead of an answer.
    @discardableResult
    func quiet() -> String? {
        guard let guest else { return nil }
        self.guest = nil
        let end = guest.end()
        model = end.model
        return end.failure
    }

    /// The spans of the guest's life since a mark.
    func spans(since start: TortureModel.Span) -> [TortureModel.Span] {
        guest?.spans(since: start) ?? model.spans(since: start)
    }
    func mark() -> TortureModel.Span { guest?.mark() ?? model.mark() }

    /// Kills the disk's server.
    func killServer() throws {
        guard let server, let process = try ProcessHandle(server.pid) else { return }
        try process.send(Signal.kill)
        _ = try process.waitForEnd(deadlineMilliseconds: 10_000)
        disturbed("server killed")
    }

    /// Takes the disk from whoever serves it, serves it anew, and compares every block.
    /// - Parameter isExact: no server was killed: all that was answered is there.
    func compare(isExact: Bool) throws {
        let failure = quiet()
        if isExact, let failure { throw TortureFailure("\(disk): the guest was told \(failure)") }
        let detached = try run(["disk", "detach", disk, "--force"])
        guard [0, 7].contains(detached.status) else { throw TortureFailure(detached.text) }
        server = nil
        let checked = try run(["disk", "check", disk])
        guard checked.status == 0 || !isExact else { throw TortureFailure(checked.text) }
        let found = try contents(ofExport: attach().uri)
        if let wrong = model.firstWrong(found, isExact: isExact) {
            throw TortureFailure("\(disk), \(isExact ? "in use" : "after a crash"): \(wrong)")
        }
        model.begin(with: found)
    }

    /// The disk is at the other host now, under that name.
    func moved(to newName: String) {
        quiet()
        server = nil
        owner = 1 - owner
        name = newName
    }

    // MARK: Points

    private struct Points: Decodable {
        struct One: Decodable { var id: String }
        var points: [One]
    }

    /// Restores the points that are new and compares them with the guest's life since `start`.
    /// - Parameter isKilled: the disk's server was, meanwhile: a point may hold the disk as that has left it.
    /// - Returns: how many were new.
    @discardableResult
    func checkNewPoints(since start: TortureModel.Span, isKilled: Bool = false) throws -> Int {
        let listed = try run(["points", "--store", store]).expectSuccess().decode(Points.self).points.map(\.id)
        let spans = spans(since: start)
        let new = listed.filter { points[$0] == nil }
        for point in new {
            let raw = here.folder.file("restored")
            _ = try run(["restore", point, "--store", store, "--raw", raw]).expectSuccess()
            let found = try contents(ofFile: raw)
            try LinuxFileSystem().remove(raw)
            let now = guest?.snapshot() ?? model
            if !now.isInstant(found, of: spans) {
                let wrong = isKilled ? now.firstWrong(found, isExact: false) : "it is none"
                if let wrong {
                    throw TortureFailure("point \(point) is the disk at no instant of its backup: \(wrong)")
                }
            }
            points[point] = found
        }
        for point in points.keys where !listed.contains(point) { throw TortureFailure("point \(point) is gone") }
        return new.count
    }
}
