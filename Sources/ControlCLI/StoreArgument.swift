internal import AgentCore
internal import BackupStore
internal import BlockIO
internal import Geometry

/// What the user calls a store: a name of the configuration where there is no such folder, else a folder or a URL.
struct StoreArgument {
    let location: StoreLocation
    /// Could have been meant as a name.
    private let isUnknownName: Bool

    init(_ text: String, _ configuration: Configuration) throws(CommandFailure) {
        var text = text
        var named: String?
        if PathText.hasSlash(text) {
            isUnknownName = false
        } else {
            let path = text
            let isThere = try translated { try LinuxFileSystem().exists(path) }
            named = isThere ? nil : configuration.location(of: text)
            isUnknownName = !isThere && named == nil
        }
        text = named ?? text
        location = try translated { try StoreLocation(parsing: text) }
    }

    /// - Parameter writable: otherwise nothing in the store is touched.
    func open(writable: Bool, _ common: CommonOptions) throws(CommandFailure) -> any StoreBackend {
        let report = Report(common)
        do throws(CommandFailure) {
            return try translated {
                try location.open(
                    writable: writable, fs: LinuxFileSystem(), product: Program.product,
                    onErrorLine: { report.detail("\(location): \($0)") })
            }
        } catch {
            guard isUnknownName, error.status == .notFound else { throw error }
            throw CommandFailure(error.status, "\(error.message); nor does the configuration name one so")
        }
    }
}
